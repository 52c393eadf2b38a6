//! However processes, clocks and answers interleave, at most one process holds the lease at a time, and in the end one does.
//! The store is an API server that takes a write only for the edition it names; everything else may be late, lost or suspended.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's way to fail")]

use std::time::Duration;

use keyvault_sync_core::lease::{Candidacy, Holder, Next, Record};
use proptest::prelude::*;

const LASTS: Duration = Duration::from_secs(30);
/// How often the leader renews and the others look.
const TICK_MILLIS: u64 = 1_000;

/// The API server: the Lease, and how often it was written.
#[derive(Default)]
struct Server {
    lease: Option<Record>,
    edition: u64,
}

impl Server {
    fn write(&mut self, seen: Option<u64>, record: Record) -> bool {
        let is_it = match seen {
            None => self.lease.is_none(),
            Some(edition) => self.lease.is_some() && self.edition == edition,
        };
        if is_it {
            self.edition += 1;
            self.lease = Some(record);
        }
        is_it
    }
}

/// What a process waits for.
enum Waiting {
    Nothing,
    /// The answer to a read, made at some time before.
    Read(Option<(Record, u64)>),
    /// A write under way that the server has not seen yet.
    Write {
        seen: Option<u64>,
        record: Record,
        sent: Duration,
    },
    /// A write that the server has judged.
    Answer {
        is_taken: bool,
        record: Record,
        sent: Duration,
    },
}

struct Process {
    instance: usize,
    candidacy: Candidacy,
    waiting: Waiting,
    /// Its clock began at another time, and runs at so many thousandths of the true one.
    offset: Duration,
    rate: u32,
    writes: u64,
    is_over: bool,
}

impl Process {
    fn new(instance: usize, number: usize, offset: u64, rate: u32) -> Self {
        let me = Holder { instance: format!("pod-{instance}"), process: number.to_string() };
        Self {
            instance,
            candidacy: Candidacy::new(me, LASTS),
            waiting: Waiting::Nothing,
            offset: Duration::from_secs(offset),
            rate,
            writes: 0,
            is_over: false,
        }
    }

    fn now(&self, time: Duration) -> Duration {
        self.offset + time * self.rate / 1_000
    }

    fn holds(&self, time: Duration) -> bool {
        !self.is_over && self.candidacy.valid_until().is_some_and(|until| self.now(time) < until)
    }

    /// The next thing that happens to it. `is_lost`: its answer is, if one is on its way.
    fn step(&mut self, time: Duration, is_lost: bool, me: &Holder, server: &mut Server) {
        let now = self.now(time);
        self.waiting = match std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            _ if self.is_over => Waiting::Nothing,
            Waiting::Nothing => Waiting::Read(server.lease.clone().map(|record| (record, server.edition))),
            Waiting::Read(_) if is_lost => Waiting::Nothing,
            Waiting::Read(found) => {
                match self.candidacy.next(found.as_ref().map(|(record, _)| record), now) {
                    Next::Wait => Waiting::Nothing,
                    Next::Lost => {
                        self.is_over = true;
                        Waiting::Nothing
                    }
                    next @ (Next::Create | Next::Write) => {
                        self.writes += 1;
                        let renewed = format!("{me} {}", self.writes);
                        let record = Record { holder: Some(me.clone()), renewed, lasts: LASTS };
                        let seen =
                            (next == Next::Write).then_some(found).flatten().map(|(_, edition)| edition);
                        Waiting::Write { seen, record, sent: now }
                    }
                }
            }
            Waiting::Write { seen, record, sent } => {
                Waiting::Answer { is_taken: server.write(seen, record.clone()), record, sent }
            }
            Waiting::Answer { is_taken, record, sent } => {
                if is_taken && !is_lost {
                    self.candidacy.written(record, sent);
                }
                Waiting::Nothing
            }
        };
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// Time goes by for everybody.
    Pass(u64),
    /// Something happens to this process; its answer may be lost.
    Step(usize, bool),
    /// It ends without a word, and its pod starts another; a write on its way may still arrive or not.
    Crash(usize, bool),
    /// It gives the lease back and ends; its pod starts another.
    Release(usize),
    /// Somebody touches the Lease: another edition that says the same.
    Touch,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..9_000_u64).prop_map(Event::Pass),
        1 => (9_000..70_000_u64).prop_map(Event::Pass),
        16 => (0..3_usize, prop::bool::weighted(0.1)).prop_map(|(who, is_lost)| Event::Step(who, is_lost)),
        1 => (0..3_usize, any::<bool>()).prop_map(|(who, lands)| Event::Crash(who, lands)),
        1 => (0..3_usize).prop_map(Event::Release),
        1 => Just(Event::Touch),
    ]
}

struct Race {
    server: Server,
    processes: Vec<Process>,
    started: usize,
    time: Duration,
}

impl Race {
    fn new(clocks: &[(u64, u32)]) -> Self {
        let processes: Vec<_> = clocks
            .iter()
            .enumerate()
            .map(|(instance, (offset, rate))| Process::new(instance, instance, *offset, *rate))
            .collect();
        Self { server: Server::default(), started: processes.len(), processes, time: Duration::ZERO }
    }

    fn me(&self, who: usize) -> Holder {
        self.processes[who].candidacy.me().clone()
    }

    fn again(&mut self, who: usize) {
        let old = &self.processes[who];
        let (instance, offset, rate) = (old.instance, old.offset.as_secs(), old.rate);
        self.processes[who] = Process::new(instance, self.started, offset, rate);
        self.started += 1;
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Pass(millis) => self.time += Duration::from_millis(millis),
            Event::Step(who, is_lost) => {
                let me = self.me(who);
                self.processes[who].step(self.time, is_lost, &me, &mut self.server);
            }
            Event::Crash(who, lands) => {
                if let Waiting::Write { seen, record, .. } = &self.processes[who].waiting
                    && lands
                {
                    self.server.write(*seen, record.clone());
                }
                self.again(who);
            }
            Event::Release(who) => {
                let me = self.me(who);
                self.processes[who].candidacy.give_back();
                if self.server.lease.as_ref().and_then(|lease| lease.holder.as_ref()) == Some(&me) {
                    let free = Record { holder: None, renewed: format!("{me} over"), lasts: LASTS };
                    let edition = self.server.edition;
                    assert!(self.server.write(Some(edition), free));
                }
                self.again(who);
            }
            Event::Touch => self.server.edition += 1,
        }
    }

    fn leaders(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|who| self.processes[*who].holds(self.time)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_do_two_lead_and_in_the_end_one_does(
        clocks in prop::collection::vec((0..100_000_u64, 980..1_020_u32), 3),
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut race = Race::new(&clocks);
        for event in &events {
            race.happen(event);
            let leaders = race.leaders();
            prop_assert!(leaders.len() <= 1, "{leaders:?} lead after {event:?} at {:?}", race.time);
        }
        // Everybody works and answers come: a lost process starts again, as its pod does.
        for _ in 0..60 {
            for who in 0..3 {
                if race.processes[who].is_over {
                    race.again(who);
                }
                for _ in 0..4 {
                    race.happen(&Event::Step(who, false));
                }
                let leaders = race.leaders();
                prop_assert!(leaders.len() <= 1, "{leaders:?} lead at {:?}", race.time);
            }
            race.happen(&Event::Pass(TICK_MILLIS));
        }
        prop_assert_eq!(race.leaders().len(), 1);
    }
}
