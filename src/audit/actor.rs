//! Who does something, as the operating system says: it is what an auditor is told, and no proof.

use std::os::unix::fs::MetadataExt;

/// The user that this process runs as and its machine, such as `ann@host`; with the user that called it through sudo.
pub fn user() -> String {
    let id = std::fs::metadata("/proc/self").map(|process| process.uid()).ok();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = id.and_then(|id| name_of(&users, id)).or_else(|| std::env::var("USER").ok());
    let name = named.or_else(|| id.map(|id| format!("uid {id}"))).unwrap_or_else(|| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let sudo = std::env::var("SUDO_USER").map(|user| format!(" (sudo by {user})")).unwrap_or_default();
    format!("{name}@{}{sudo}", if host.is_empty() { "localhost" } else { host })
}

/// This process, as who runs the pipeline.
pub fn process() -> String {
    format!("sooner {}, process {}, {}", env!("CARGO_PKG_VERSION"), std::process::id(), user())
}

/// The name of a user in the text of `/etc/passwd`; none if it is known elsewhere only.
fn name_of(users: &str, id: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, listed) = (fields.next()?, fields.nth(1)?);
        (listed.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_by_name_where_they_have_one_here() {
        let users = "root:x:0:0:root:/root:/bin/bash\n\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(users, 1000).as_deref(), Some("ann"));
        assert_eq!(name_of(users, 7), None);
        assert!(user().contains('@') && process().contains(&std::process::id().to_string()));
    }
}
