//! Reports give way to the stream: their thread and their engine's process have a lower priority, and the engine does
//! not outlive the process that started it.

use tokio::process::Command;

/// How much more a report gives way than other processes: of -20 to 19.
const NICENESS: i32 = 10;

/// Lowers the priority of the thread that calls it, and of those that it starts. On Linux, a priority is a thread's.
///
/// <https://man7.org/linux/man-pages/man2/setpriority.2.html>
#[allow(unsafe_code, reason = "no safe wrapper offers setpriority, which only sets a number of the thread")]
pub fn lower_this_thread() {
    // A failure leaves the priority as it is.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
    }
}

/// Has a command's process run with a lower priority, and be killed when the thread that starts it ends.
///
/// <https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html>
#[allow(unsafe_code, reason = "what runs between fork and exec has to be safe after signals; these system calls are")]
pub fn lower(command: &mut Command) {
    #[cfg(target_os = "linux")]
    unsafe {
        command.pre_exec(|| {
            libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}
