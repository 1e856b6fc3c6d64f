//! One absolute deadline shared by everything that must still be attempted.

use std::time::Duration;

use tokio::time::Instant;

/// What a stuck step leaves to each one after it; less where there is not that much left.
const RESERVE: Duration = Duration::from_secs(1);

/// Deals out the time until a deadline. Each share ends at the deadline less a reserve for every later one, so a
/// stuck step can use up what the others do not need, and no more.
pub(super) struct Budget {
    deadline: Option<Instant>,
    shares: u32,
}

impl Budget {
    /// For `shares` steps, until `deadline`; `None` is unlimited.
    pub(super) fn new(deadline: Option<Instant>, shares: usize) -> Self {
        Self {
            deadline,
            shares: u32::try_from(shares).unwrap_or(u32::MAX),
        }
    }

    /// When the next step's share is over. With the deadline behind us that is at once.
    pub(super) fn next(&mut self) -> Option<Instant> {
        let later = self.shares.saturating_sub(1);
        self.shares = later;
        self.deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            let reserve = RESERVE.min(left / later.saturating_add(1));
            deadline - reserve.saturating_mul(later)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(share: Option<Instant>) -> f64 {
        share
            .unwrap()
            .saturating_duration_since(Instant::now())
            .as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_step_leaves_a_second_to_each_later_one() {
        let mut budget = Budget::new(Some(Instant::now() + Duration::from_secs(10)), 4);
        assert_eq!(seconds(budget.next()), 7.0);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(seconds(budget.next()), 1.0);
        assert_eq!(
            seconds(budget.next()),
            2.0,
            "what a step did not use is left to the next"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_deadline_is_shared_equally() {
        let mut budget = Budget::new(Some(Instant::now() + Duration::from_secs(1)), 4);
        assert_eq!(seconds(budget.next()), 0.25);
    }

    #[tokio::test(start_paused = true)]
    async fn past_the_deadline_every_share_is_zero() {
        let past = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut budget = Budget::new(Some(past), 2);
        assert_eq!(seconds(budget.next()), 0.0);
        assert_eq!(seconds(budget.next()), 0.0);
        assert_eq!(
            seconds(budget.next()),
            0.0,
            "more steps than planned are no panic"
        );
    }
}
