//! Of which moments a history knows its whole table: not of those before it began, nor while rows were being copied
//! into it. Without I/O.

use super::manifest::instant;
use crate::schedule::Due;

/// A moment at which a history began anew, because its table was copied or emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    begins_micros: i64,
    /// When the last row came that had been in the table before; none if there was none.
    complete_micros: Option<i64>,
    /// When the last event before it was committed, where it is a copy: others since then may be missing.
    before_micros: Option<i64>,
}

/// Reads what the engine found, by the query of `Described::completeness`, in the order of positions.
pub fn parse(text: &str) -> Result<Vec<Beginning>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let parsed = lines.map(|line| {
        let fields: Vec<_> = line.split(',').map(|field| field.trim().trim_matches('"')).collect();
        let [_lsn, begins, complete, before] = fields[..] else { return None };
        let optional = |field: &str| if field.is_empty() { Some(None) } else { field.parse().ok().map(Some) };
        Some(Beginning {
            begins_micros: begins.parse().ok()?,
            complete_micros: optional(complete)?,
            before_micros: optional(before)?,
        })
    });
    parsed.collect::<Option<_>>().ok_or_else(|| format!("the engine wrote what is not understood: {text}"))
}

/// Why a history does not know its whole table as of a moment; nothing if it does.
pub fn check(beginnings: &[Beginning], due: Due) -> Result<(), String> {
    let Some(first) = beginnings.first() else { return Err("its history has no beginning".to_owned()) };
    let Some(current) = beginnings.iter().rev().find(|beginning| beginning.begins_micros <= due.micros()) else {
        return Err(format!("its history begins at {}", instant(first.begins_micros)));
    };
    match current.complete_micros {
        Some(complete) if complete > due.micros() => Err(format!(
            "its rows were being copied then, from {} to {}",
            instant(current.begins_micros),
            instant(complete)
        )),
        _ => Ok(()),
    }
}

/// What is not proved of a history as of a moment: whether something happened between its last event before a copy and
/// that copy, if the table was not followed then.
pub fn unproven(beginnings: &[Beginning], due: Due) -> Option<String> {
    let copy = beginnings.iter().find(|beginning| beginning.begins_micros > due.micros())?;
    let before = copy.before_micros.filter(|before| *before < due.micros())?;
    Some(format!(
        "it was copied again at {}; whether anything happened in it since {} and before that, its history cannot tell",
        instant(copy.begins_micros),
        instant(before)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_the_history_or_within_a_copy_is_refused() {
        let found = parse("1,10000000,15000000,\n2,20000000,,\n\"3\",30000000,30500000,25000000\n").unwrap();
        let told = |due| check(&found, Due(due)).err().unwrap_or_default();
        assert!(told(9).contains("begins at 1970-01-01T00:00:10"), "{}", told(9));
        assert!(told(14).contains("being copied"));
        assert_eq!([told(15), told(19), told(20), told(29), told(31)], [(); 5].map(|()| String::new()));
        assert!(told(30).contains("to 1970-01-01T00:00:30.5"), "{}", told(30));
        assert_eq!(
            [unproven(&found, Due(16)), unproven(&found, Due(25)), unproven(&found, Due(31))],
            [None, None, None]
        );
        assert!(unproven(&found, Due(27)).is_some_and(|why| why.contains("copied again at 1970-01-01T00:00:30")));
        assert!(check(&[], Due(5)).is_err() && parse("1,2").is_err() && parse("1,x,,").is_err());
    }
}
