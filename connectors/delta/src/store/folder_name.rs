//! Names of folders for schemas and tables: readable, the same wherever they are read, and never shared by two names.
//!
//! Letters and digits of ASCII, `_` and `.` stand for themselves; every other byte of a name is written as `-` and its
//! two hexadecimal digits, and so are `_` and `.` where a name begins with one, since readers leave such folders alone.
//! So no path holds a character that a URL, a glob or a file system takes for something else.

use std::fmt::Write;

/// Name of the folder of a schema or a table.
pub fn folder_name(name: &str) -> String {
    let mut folder = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let stays = byte.is_ascii_alphanumeric() || at > 0 && matches!(byte, b'_' | b'.');
        if stays {
            folder.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(folder, "-{byte:02X}");
        }
    }
    folder
}

/// The name that a folder stands for; none if it is no such folder.
pub fn name_of_folder(folder: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(folder.len());
    let mut rest = folder;
    while let Some((plain, escaped)) = rest.split_once('-') {
        bytes.extend_from_slice(plain.as_bytes());
        let (digits, after) = escaped.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok().filter(|name| folder_name(name) == folder)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_stay_and_others_can_be_read() {
        for (name, folder) in [
            ("orders_2024", "orders_2024"),
            ("a.b", "a.b"),
            ("a#b", "a-23b"),
            ("a-b", "a-2Db"),
            ("%41", "-2541"),
            ("_sooner", "-5Fsooner"),
            ("..", "-2E."),
            ("two words", "two-20words"),
            ("ü", "-C3-BC"),
            ("[x]*?~^\"\\/", "-5Bx-5D-2A-3F-7E-5E-22-5C-2F"),
        ] {
            assert_eq!(folder_name(name), folder);
            assert_eq!(name_of_folder(folder).as_deref(), Some(name));
        }
        for other in ["_delta_log", "a b", "a-", "a-4", "a-zz", "a-61", "-FF"] {
            assert_eq!(name_of_folder(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_two_names_share_a_folder(name: String) {
            prop_assert_eq!(name_of_folder(&folder_name(&name)), Some(name));
        }
    }
}
