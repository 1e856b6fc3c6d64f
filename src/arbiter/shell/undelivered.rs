//! What follows when a worker could not be told something.

use std::io;

use super::super::core::{Event, WorkerId};
use crate::ipc::orders::Order;
use crate::lease::Released;
use crate::moment::Moment;
use crate::sys::passing;

/// Whether the worker has to leave for it. One that does not listen, or is gone, is taken care of by its limits; but
/// there is no limit on what its leases depend on, and without a channel it has to give them back. It does not leave
/// for what is missing here, when the core gets an answer and asks again: the next worker would have to leave as well.
pub(super) fn ends_channel(order: Order, error: &io::Error) -> bool {
    match order {
        Order::Grant { .. } => !passing::is_shortage(error),
        // Nobody asks again.
        Order::Revoke { .. } => true,
        _ => false,
    }
}

/// What the core hears of a grant that did not come to the worker.
pub(super) fn answer(
    worker: WorkerId,
    order: Order,
    error: &io::Error,
    at: Moment,
) -> Option<Event> {
    let Order::Grant { payload, grant, .. } = order else {
        return None;
    };
    let epoch = grant.epoch;
    Some(if ends_channel(order, error) {
        Event::Undelivered {
            worker,
            payload,
            epoch,
        }
    } else {
        Event::Released {
            worker,
            payload,
            epoch,
            how: Released::NotTaken,
            at,
        }
    })
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::lease::Grant;

    const GRANT: Order = Order::Grant {
        payload: 1,
        grant: Grant { epoch: 7, slots: 2 },
        kept: None,
    };
    const REVOKE: Order = Order::Revoke {
        payload: 1,
        epoch: 7,
    };

    fn told(order: Order, errno: Errno) -> (bool, Option<Event>) {
        let error = errno.into();
        let answer = answer(WorkerId(3), order, &error, Moment::default());
        (ends_channel(order, &error), answer)
    }

    #[test]
    fn a_worker_is_not_given_up_for_what_the_arbiter_has_too_little_of() {
        let not_taken = Event::Released {
            worker: WorkerId(3),
            payload: 1,
            epoch: 7,
            how: Released::NotTaken,
            at: Moment::default(),
        };
        for errno in [Errno::ETOOMANYREFS, Errno::ENOBUFS, Errno::ENOMEM] {
            assert_eq!(told(GRANT, errno), (false, Some(not_taken.clone())));
        }
    }

    #[test]
    fn one_that_does_not_listen_or_is_gone_leaves_for_a_lease_and_for_nothing_else() {
        let undelivered = Event::Undelivered {
            worker: WorkerId(3),
            payload: 1,
            epoch: 7,
        };
        for errno in [Errno::EAGAIN, Errno::EPIPE] {
            assert_eq!(told(GRANT, errno), (true, Some(undelivered.clone())));
            assert_eq!(told(REVOKE, errno), (true, None));
            assert_eq!(told(Order::Resume, errno), (false, None));
        }
        assert_eq!(told(REVOKE, Errno::ENOBUFS), (true, None));
    }
}
