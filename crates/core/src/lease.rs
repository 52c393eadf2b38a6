//! Who of several operators leads: what to do about the Lease, from what it says and when it was seen to say so.
//! Reading and writing the Lease is left to the operator. Times are those of one process's own clock, since any moment of its own.

use std::fmt;
use std::time::Duration;

/// For so much of a lease's end its holder does not count on it: the clocks of two machines do not run alike.
const MARGIN: Duration = Duration::from_secs(2);
/// A Lease that says it lasts longer is not believed: nobody would lead for as long.
pub const LASTS_MAX: Duration = Duration::from_secs(300);

/// Who holds a Lease: a process of a pod. Two processes are never the same; those of one pod come one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The pod, or whatever runs one process at a time.
    pub instance: String,
    /// The process.
    pub process: String,
}

impl Holder {
    /// As a Lease names it. A text of another form is another operator's all the same.
    pub fn parse(text: &str) -> Self {
        let (instance, process) = text.rsplit_once('_').unwrap_or((text, ""));
        Self { instance: instance.to_owned(), process: process.to_owned() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.instance, self.process)
    }
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; `None`: it was given back.
    pub holder: Option<Holder>,
    /// When it was renewed last, as its holder wrote: only whether it changes counts, for the clock is another's.
    pub renewed: String,
    /// For how long after that it lasts.
    pub lasts: Duration,
}

/// What is to be done about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Write it, if there is still none.
    Create,
    /// Write it, if it is still what was seen: it is free, has expired, or is ours already.
    Write,
    /// Leave it alone: another leads.
    Wait,
    /// Another leads, and it was us before: nothing may be done any more.
    Lost,
}

/// One process's view of the Lease.
#[derive(Clone, Debug)]
pub struct Candidacy {
    me: Holder,
    lasts: Duration,
    /// What the Lease said last, and when that was seen first.
    seen: Option<(Record, Duration)>,
    /// Until when it is ours; `None`: it never was, or was given back.
    valid_until: Option<Duration>,
}

impl Candidacy {
    /// A process that holds nothing and has seen nothing. Its lease would last so long.
    pub fn new(me: Holder, lasts: Duration) -> Self {
        Self { me, lasts, seen: None, valid_until: None }
    }

    /// What to do, when the Lease was found like this (`None`: there is none) by a read that ended `now`.
    pub fn next(&mut self, found: Option<&Record>, now: Duration) -> Next {
        let Some(found) = found else {
            // Somebody removed it. Its holder may not know yet.
            return if self.is_others_running(now) { Next::Wait } else { Next::Create };
        };
        let is_known = self.seen.as_ref().is_some_and(|(seen, _)| seen == found);
        if !is_known {
            self.seen = Some((found.clone(), now));
        }
        match &found.holder {
            None => Next::Write,
            // A pod runs one process at a time: whoever of it held the Lease before is gone.
            Some(holder)
                if *holder == self.me || (holder.instance == self.me.instance && !self.was_ours()) =>
            {
                Next::Write
            }
            Some(_) if self.was_ours() => {
                self.valid_until = None;
                Next::Lost
            }
            Some(_) if self.is_others_running(now) => Next::Wait,
            Some(_) => Next::Write,
        }
    }

    /// The Lease was written: it is ours, counted from the moment before the write was `sent`.
    pub fn written(&mut self, record: Record, sent: Duration) {
        self.valid_until = Some(sent + self.lasts.saturating_sub(MARGIN));
        self.seen = Some((record, sent));
    }

    /// The Lease is given back: nothing is begun any more.
    pub fn give_back(&mut self) {
        self.valid_until = None;
    }

    /// This process.
    pub fn me(&self) -> &Holder {
        &self.me
    }

    /// Until when it is ours, if it ever was.
    pub fn valid_until(&self) -> Option<Duration> {
        self.valid_until
    }

    /// Who holds the Lease, as it was seen last.
    pub fn holder(&self) -> Option<&Holder> {
        self.seen.as_ref().and_then(|(seen, _)| seen.holder.as_ref())
    }

    fn was_ours(&self) -> bool {
        self.valid_until.is_some()
    }

    /// Whether the lease of another may still run: it was renewed at the latest when it was first seen as it is.
    fn is_others_running(&self, now: Duration) -> bool {
        self.seen.as_ref().is_some_and(|(seen, since)| {
            seen.holder.as_ref().is_some_and(|holder| *holder != self.me)
                && now < *since + seen.lasts.min(LASTS_MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(30);

    fn holder(text: &str) -> Holder {
        Holder::parse(text)
    }

    fn record(holder: Option<&str>, renewed: &str) -> Record {
        Record { holder: holder.map(Holder::parse), renewed: renewed.into(), lasts: LASTS }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_holder_is_read_as_it_is_written() {
        for text in ["operator-7d9f_1a2b", "a_b_c", "somebody_"] {
            assert_eq!(holder(text).to_string(), text);
        }
        assert_eq!(holder("a_b_c"), Holder { instance: "a_b".into(), process: "c".into() });
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_over_by_our_own_clock() {
        let mut one = Candidacy::new(holder("one_1"), LASTS);
        assert_eq!(one.next(None, at(100)), Next::Create);
        assert_eq!(one.next(Some(&record(None, "a")), at(100)), Next::Write);
        assert_eq!(one.next(Some(&record(Some("one_0"), "a")), at(100)), Next::Write, "an earlier process");
        // First seen now: how long it has been so is not known.
        assert_eq!(one.next(Some(&record(Some("two_1"), "a")), at(100)), Next::Wait);
        assert_eq!(one.next(Some(&record(Some("two_1"), "a")), at(129)), Next::Wait);
        assert_eq!(one.next(Some(&record(Some("two_1"), "b")), at(129)), Next::Wait, "renewed meanwhile");
        assert_eq!(one.next(Some(&record(Some("two_1"), "b")), at(158)), Next::Wait);
        assert_eq!(one.next(None, at(158)), Next::Wait, "removed by hand: its holder may not know");
        assert_eq!(one.next(Some(&record(Some("two_1"), "b")), at(159)), Next::Write);
    }

    #[test]
    fn a_lease_is_valid_from_before_it_was_sent_and_less_than_it_says() {
        let mut one = Candidacy::new(holder("one_1"), LASTS);
        assert_eq!(one.valid_until(), None);
        one.written(record(Some("one_1"), "a"), at(100));
        assert_eq!(one.valid_until(), Some(at(128)));
        assert_eq!(
            one.next(Some(&record(Some("one_1"), "a")), at(200)),
            Next::Write,
            "nobody took it: renewed"
        );
        assert_eq!(one.next(Some(&record(Some("two_1"), "b")), at(101)), Next::Lost);
        assert_eq!(one.valid_until(), None, "whatever the clock says");
    }

    #[test]
    fn a_second_process_of_the_pod_ends_the_first() {
        let mut one = Candidacy::new(holder("one_1"), LASTS);
        one.written(record(Some("one_1"), "a"), at(100));
        assert_eq!(one.next(Some(&record(Some("one_2"), "b")), at(101)), Next::Lost);
    }

    #[test]
    fn a_lease_that_lasts_for_ever_does_not() {
        let mut one = Candidacy::new(holder("one_1"), LASTS);
        let absurd = Record { lasts: Duration::from_secs(1_000_000), ..record(Some("two_1"), "a") };
        assert_eq!(one.next(Some(&absurd), at(0)), Next::Wait);
        assert_eq!(one.next(Some(&absurd), LASTS_MAX), Next::Write);
    }
}
