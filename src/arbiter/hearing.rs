//! What one worker has said, as far as it can be read.

use std::os::fd::OwnedFd;

use crate::ipc::channel::{Channel, Received, Report};

/// So many reports of one worker are taken before everything else has its turn: who talks without end must not keep
/// the arbiter from its limits, signals and watchdog. What is left makes the channel readable again at once.
const BATCH: usize = 64;

/// A batch of reports.
#[derive(Debug)]
pub(super) struct Heard {
    /// Each with the descriptor that came along.
    pub(super) reports: Vec<(Report, Option<OwnedFd>)>,
    /// Why the first could not be read that could not.
    pub(super) unreadable: Option<String>,
    pub(super) rest: Rest,
}

/// What follows a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing now.
    Nothing,
    /// Maybe more.
    More,
    /// Nothing any more: the worker has closed its end, or the channel is broken.
    End,
}

/// Takes a batch out of a channel. What a newer program says and this one does not know is passed over: its worker
/// serves, whatever it says.
pub(super) fn hear(channel: &Channel) -> Heard {
    let mut heard = Heard {
        reports: Vec::new(),
        unreadable: None,
        rest: Rest::More,
    };
    for _ in 0..BATCH {
        match channel.receive_with() {
            Ok((Received::Message(report), file)) => heard.reports.push((report, file)),
            Ok((Received::Unreadable(error), _)) => {
                heard.unreadable.get_or_insert(error);
            }
            Ok((Received::Empty, _)) => {
                heard.rest = Rest::Nothing;
                break;
            }
            Ok((Received::Closed, _)) => {
                heard.rest = Rest::End;
                break;
            }
            Err(error) => {
                tracing::warn!(error = %error, "a worker's channel is broken");
                heard.rest = Rest::End;
                break;
            }
        }
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Released;
    use crate::moment::Moment;

    fn paused(round: u64) -> Report {
        Report::Paused { round }
    }

    fn rounds(heard: &Heard) -> Vec<u64> {
        let rounds = heard.reports.iter().map(|(report, _)| match report {
            Report::Paused { round } => *round,
            other => panic!("{other:?}"),
        });
        rounds.collect()
    }

    #[test]
    fn who_talks_without_end_is_heard_in_batches() {
        let (arbiter, worker) = Channel::pair().unwrap();
        let said = BATCH as u64 + 10;
        (0..said).for_each(|round| worker.send(&paused(round)).unwrap());
        let first = hear(&arbiter);
        assert_eq!((first.reports.len(), first.rest), (BATCH, Rest::More));
        let second = hear(&arbiter);
        assert_eq!((second.reports.len(), second.rest), (10, Rest::Nothing));
        let all = [rounds(&first), rounds(&second)].concat();
        assert!(all.into_iter().eq(0..said));
    }

    #[test]
    fn what_is_not_known_here_is_passed_over_and_ends_nothing() {
        let (arbiter, worker) = Channel::pair().unwrap();
        worker.send(&paused(1)).unwrap();
        worker
            .send(&serde_json::json!({"sung": {"verse": 1}}))
            .unwrap();
        worker.send(&paused(2)).unwrap();
        let heard = hear(&arbiter);
        assert_eq!((rounds(&heard), heard.rest), (vec![1, 2], Rest::Nothing));
        assert!(heard.unreadable.unwrap().contains("sung"));
    }

    /// Its lease would be nobody's for ever.
    #[test]
    fn a_lease_that_comes_back_in_a_way_that_is_not_known_here_comes_back() {
        let (arbiter, worker) = Channel::pair().unwrap();
        for how in [
            serde_json::json!("bored"),
            serde_json::json!({"handed": {"to": 3}}),
        ] {
            let at = serde_json::json!({"secs": 0, "nanos": 5});
            worker
                .send(&serde_json::json!({"released": {"payload": 1, "epoch": 7, "how": how, "at": at}}))
                .unwrap();
        }
        let heard = hear(&arbiter);
        assert_eq!((heard.reports.len(), heard.unreadable), (2, None));
        for (report, _) in heard.reports {
            let expected = Report::Released {
                payload: 1,
                epoch: 7,
                how: Released::Unknown,
                at: Moment::from_nanos(5),
            };
            assert_eq!(report, expected);
        }
    }

    #[test]
    fn the_end_comes_after_the_last_report() {
        let (arbiter, worker) = Channel::pair().unwrap();
        worker.send(&paused(1)).unwrap();
        drop(worker);
        let heard = hear(&arbiter);
        assert_eq!((rounds(&heard), heard.rest), (vec![1], Rest::End));
    }
}
