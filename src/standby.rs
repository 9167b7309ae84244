//! A sink that stands by: its group has more members than partitions. It is ready, since it does all that it is to do.

use sooner_api::Error;

/// What a sink that stands by is called, for people and probes.
pub const PHASE: &str = "standby: waits for partitions";

/// Takes note of whether a sink stands by. When it begins to, it has joined its group: no former trouble counts.
pub fn take(standby: &mut bool, trouble: &mut Option<Error>, waits: bool) {
    if waits && !*standby {
        *trouble = None;
    }
    *standby = waits;
}

#[cfg(test)]
mod tests {
    use sooner_api::Code;

    use super::*;

    #[test]
    fn joining_ends_the_trouble_before_it_and_none_that_comes_later() {
        let error = || Some(Error::retry(Code::KafkaUnreachable, "cannot connect", "refused", "nothing"));
        let (mut standby, mut trouble) = (false, error());
        take(&mut standby, &mut trouble, true);
        assert_eq!((standby, &trouble), (true, &None));
        trouble = error();
        take(&mut standby, &mut trouble, true);
        assert!(trouble.is_some());
        take(&mut standby, &mut trouble, false);
        assert!(!standby && trouble.is_some());
    }
}
