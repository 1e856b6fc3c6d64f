//! For how long nobody wrote in a storm, judged by what caused it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::judge::{Silence, Stint};
use crate::support::service::{Record, Service};

/// By how much more than their cause explains half of the silences, nine of ten, and all of them may last.
const HALF: f64 = 0.6;
const NINE_OF_TEN: f64 = 2.0;
const ALL: f64 = 6.0;
/// Where somebody had to be found stuck there are few to judge.
const FOUND_LATE: f64 = 1.5;
/// Until one that is frozen is dead: the heartbeat's limit, the time after SIGABRT, and the time that the arbiter itself
/// is kept from running.
const FOUND: f64 = 1.0 + 0.1 + 0.2;
/// The longest pause after failures.
const PAUSE: f64 = 0.2;
/// Who was killed may have written for so long after it was seen alive.
const LAST_LINE: Duration = Duration::from_millis(50);

/// What the log of one life of the service says.
#[derive(Default)]
pub(crate) struct Life {
    /// When somebody served.
    served: Vec<(Duration, Duration)>,
    /// How long it took from a fork until the worker served.
    boots: Vec<f64>,
    grants: Vec<Granted>,
}

struct Granted {
    at: Duration,
    share: u32,
    pid: u32,
    epoch: u64,
    /// For how long nobody had had it.
    gap: f64,
}

impl Life {
    pub(crate) fn of(service: &Service) -> Self {
        let (forked, phases) = (
            service.events("worker-forked"),
            service.events("worker-phase"),
        );
        let exited = ["worker-exited", "worker-failed"].map(|name| service.events(name));
        let exited = exited.concat();
        let forever = Duration::from_secs(u64::MAX / 4);
        let fork_of = |event: &Record| forked.iter().find(|fork| fork.worker() == event.worker());
        let in_phase = |name: &'static str| {
            let phases = phases.iter();
            phases.filter(move |event| event.text("phase") == name)
        };
        let mut life = Self::default();
        for serving in in_phase("serving") {
            let forked = fork_of(serving).expect("it was forked");
            life.boots.push(serving.seconds_after(forked));
            let ends = in_phase("draining").chain(&exited);
            let ends = ends.filter(|event| event.worker() == serving.worker());
            let end = ends.map(Record::when).min();
            life.served.push((serving.when(), end.unwrap_or(forever)));
        }
        life.served.sort();
        for granted in service.events("lease-granted") {
            let slot = granted["lease_slot"].as_u64().unwrap_or_default();
            life.grants.push(Granted {
                at: granted.when(),
                share: slot.try_into().unwrap(),
                pid: fork_of(&granted)
                    .expect("it was forked")
                    .number("worker_pid"),
                epoch: granted["epoch"].as_u64().expect("a number"),
                gap: granted.seconds("gap_seconds"),
            });
        }
        life
    }

    /// Somebody served all the time, as far as the log goes.
    fn somebody_served(&self, silence: &Silence) -> bool {
        let mut covered = silence.from;
        for (from, to) in &self.served {
            if *from <= covered {
                covered = covered.max(*to);
            }
        }
        covered >= silence.to
    }

    /// How many of those who had it were frozen, or kept the others from sharing the work anew.
    fn frozen(&self, silence: &Silence, freezes: &[(Duration, u32)], by_slot: bool) -> usize {
        if silence.span().as_secs_f64() < FOUND / 2.0 {
            return 0;
        }
        let during = |at: Duration| silence.from <= at && at <= silence.to;
        let of_share = |granted: &&Granted| granted.share == silence.share && during(granted.at);
        let holders = self
            .grants
            .iter()
            .filter(of_share)
            .map(|granted| granted.pid);
        let before = silence.before.iter().map(|before| before.pid);
        let holders: BTreeSet<u32> = holders.chain(before).collect();
        let until_found = Duration::from_secs_f64(FOUND + 1.0);
        let counts = |(at, pid): &&(Duration, u32)| {
            let is_near = *at <= silence.to && silence.from <= *at + until_found;
            is_near && (holders.contains(pid) || (by_slot && silence.is_shared_anew()))
        };
        let found: BTreeSet<u32> = freezes.iter().filter(counts).map(|(_, pid)| *pid).collect();
        // Those who only stand in the way of others are found at the same time.
        if by_slot {
            found.len().min(1)
        } else {
            found.len()
        }
    }

    fn told(&self, next: &Stint) -> Option<f64> {
        let mut grants = self.grants.iter();
        let granted = grants.find(|granted| granted.epoch == next.epoch)?;
        Some(granted.gap)
    }
}

/// All silences of a storm, in seconds beyond what explains them.
#[derive(Default)]
pub(crate) struct Verdict {
    /// Somebody else could go on at once.
    moved: Vec<f64>,
    /// There had to be a new worker first.
    booted: Vec<f64>,
    /// Somebody was frozen, and had to be found.
    found: Vec<f64>,
    /// Of all these, those where a writer was killed, or frozen, and nothing else happened.
    killed: Vec<f64>,
    frozen: Vec<f64>,
    /// By how much longer nobody wrote than the log says that nobody had the lease.
    untold: Vec<f64>,
    /// Too long, whatever the machine does.
    wrong: Vec<String>,
    longest: f64,
}

impl Verdict {
    pub(crate) fn add(
        &mut self,
        life: &Life,
        silences: &[Silence],
        freezes: &[(Duration, u32)],
        watched: &[(Duration, u32)],
        by_slot: bool,
    ) {
        let boot = share(&mut life.boots.clone(), 0.9);
        for silence in silences {
            let span = silence.span().as_secs_f64();
            self.longest = self.longest.max(span);
            let frozen = life.frozen(silence, freezes, by_slot);
            let needs_boot = by_slot || !life.somebody_served(silence);
            // Several who are frozen can get it one after the other. A reload that is rolled back may come before the boot.
            let found = f64::from(u32::try_from(frozen).unwrap()) * FOUND;
            let boots = if needs_boot { 2.0 * boot } else { 0.0 };
            let excess = span - PAUSE - found - boots;
            if excess > ALL {
                let all = format!("{span} s, of which {found} s and {boots} s are explained");
                self.wrong.push(format!("{all}: {silence:?}"));
            }
            // Where nobody begins after it, it may be that nobody had to.
            if silence.next.is_none() && excess < 0.0 {
                continue;
            }
            let before = silence.before.as_ref().map(|before| before.pid);
            let is_it = |(at, pid): &(Duration, u32)| {
                Some(*pid) == before && silence.from <= *at + LAST_LINE && *at <= silence.to
            };
            if watched.iter().any(is_it) {
                let watched = match frozen {
                    0 => &mut self.killed,
                    _ => &mut self.frozen,
                };
                watched.push(excess);
            }
            let all = match frozen {
                0 if needs_boot => &mut self.booted,
                0 => &mut self.moved,
                _ => &mut self.found,
            };
            all.push(excess);
            let told = silence.next.as_ref().and_then(|next| life.told(next));
            if let Some(told) = told.filter(|_| frozen == 0) {
                self.untold.push(span - told);
            }
        }
    }

    pub(crate) fn judge(mut self) -> Result<(), String> {
        println!("the longest silence: {:.3} s", self.longest);
        let count = self.moved.len() + self.booted.len();
        for (what, all, half) in [
            ("moved", &mut self.moved, HALF),
            ("booted", &mut self.booted, HALF),
            ("found stuck", &mut self.found, FOUND_LATE),
            ("killed in a calm", &mut self.killed, HALF),
            ("frozen in a calm", &mut self.frozen, FOUND_LATE),
            ("not told by the log", &mut self.untold, HALF),
        ] {
            let (middle, most) = (share(all, 0.5), share(all, 0.9));
            println!(
                "{what}: {} times, beyond what explains it: median {middle:.3} s, nine of ten {most:.3} s",
                all.len()
            );
            // Of a few, the last one is not one of ten.
            if middle > half || (all.len() >= 10 && most > NINE_OF_TEN.max(half)) {
                self.wrong.push(format!("{what}: {all:.3?}"));
            }
        }
        if count < 5 {
            self.wrong.push("hardly anything moved".to_owned());
        }
        match self.wrong.is_empty() {
            true => Ok(()),
            false => Err(self.wrong.join("; ")),
        }
    }
}

/// So large is the last one of this share of them.
fn share(all: &mut [f64], share: f64) -> f64 {
    all.sort_by(f64::total_cmp);
    let count = u32::try_from(all.len()).unwrap();
    let within = |at: &u32| f64::from(at + 1) <= f64::from(count) * share;
    let at = (0..count).take_while(within).last().unwrap_or_default();
    all.get(at as usize).copied().unwrap_or_default()
}

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

/// Twenty moves, each sixth of which takes one time and all others another one.
fn twenty(each_sixth: f64, others: f64, freezes: &[(Duration, u32)]) -> Result<(), String> {
    let life = Life {
        served: vec![(seconds(0.0), seconds(1_000.0))],
        boots: vec![0.2],
        grants: Vec::new(),
    };
    let writer = |pid: u32, at: f64| Stint {
        pid,
        slot: 0,
        slots: 1,
        epoch: pid.into(),
        from: seconds(at),
        to: seconds(at),
        pause: Duration::ZERO,
        paused_at: seconds(at),
        ended: false,
        bare: false,
    };
    let silences = (0..20).map(|number| {
        let (from, sixth) = (f64::from(number) * 20.0, number % 6 == 0);
        let to = from + if sixth { each_sixth } else { others };
        Silence {
            share: 0,
            from: seconds(from),
            to: seconds(to),
            before: Some(writer(number, from)),
            next: Some(writer(number + 1, to)),
        }
    });
    let silences: Vec<Silence> = silences.collect();
    let mut verdict = Verdict::default();
    verdict.add(&life, &silences, freezes, &[], false);
    verdict.judge()
}

#[test]
fn a_constant_wait_is_no_slow_machine() {
    let none: &[(Duration, u32)] = &[];
    assert_eq!(twenty(0.01, 0.01, none), Ok(()));
    assert_eq!(twenty(1.5, 0.1, none), Ok(()), "a few are late");
    twenty(3.0, 0.01, none).expect_err("one cause waits for 3 s");
    twenty(1.0, 1.0, none).expect_err("each waits for a second");
    let frozen = [0, 6, 12, 18].map(|pid| (seconds(f64::from(pid) * 20.0), pid));
    assert_eq!(twenty(FOUND, 0.01, &frozen), Ok(()));
    twenty(FOUND + 4.0, 0.01, &frozen).expect_err("nobody looks for them");
}
