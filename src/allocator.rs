//! What the C library's allocator keeps for itself: as little as possible, so that `memory` is what the process takes.

/// Blocks from this size on are mapped by themselves, and given back to the system as soon as they are freed.
const MAPPED_BYTES: i32 = 256 << 10;
/// Freed memory at the end of a heap beyond this goes back to the system.
const TRIMMED_BYTES: i32 = 256 << 10;
/// Heaps that threads share. Each of them keeps what fragments leave; the default is eight for each core.
const HEAPS: i32 = 2;

/// Limits what glibc's allocator keeps; nothing where another one is used. To be called before threads are started.
///
/// <https://man7.org/linux/man-pages/man3/mallopt.3.html>
#[allow(unsafe_code, reason = "no safe wrapper offers mallopt, which only sets numbers of the allocator")]
pub fn limit() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, TRIMMED_BYTES), (libc::M_ARENA_MAX, HEAPS)]
    {
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}
