//! The sampler: one in the whole service. It tells all workers what it sees, and leaves what it knows to the next one.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant as StdInstant};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::proc::Kernel;
use super::ring::{Place, Placed};
use super::sample::{Process, Sample};
use super::sampler::{self, Sampler};
use super::state::Vitals;
use super::wall_clock;
use super::wire::{self, ASK, Ask, Fresh, HISTORY, Part, SAMPLE};
use crate::{Lagged, Message, Messages, PayloadContext, Result, Subscription};

/// Between the reading that the first sample is compared with and that sample.
const FIRST: Duration = Duration::from_millis(250);
/// How long the first who asks for the history waits for others to ask as well: a new generation asks together.
const TOGETHER: Duration = Duration::from_millis(100);
/// So many parts of a history are sent at once, and then nothing for a moment, so that nobody is flooded.
const BATCH: usize = 4;
const PAUSE: Duration = Duration::from_millis(50);
/// How often a history of up to 1,000 samples is kept for the successor. One of up to 2,000 is kept half as often, and
/// so on: what that costs in a second does not grow with it.
const KEEP: Duration = Duration::from_secs(2);

/// The payload: samples until told to stop, then returns at once. The sample that is being taken then is lost.
///
/// # Panics
/// With the panic of a sample that could not be taken, for the supervisor to see.
pub(super) async fn run(context: PayloadContext) -> Result<()> {
    let vitals = context.state::<Vitals>()?;
    if let Some(kept) = context.kept() {
        vitals.learn(inherited(&kept, context.epoch()));
    }
    let messages = context.messages();
    let asks = messages.subscribe(ASK);
    let keeper = Keeper {
        vitals: &vitals,
        context: &context,
        has_warned: AtomicBool::new(false),
    };
    tokio::select! {
        biased;
        () = context.stopped() => {}
        () = answer(&vitals, &messages, asks) => {}
        () = take(&vitals, &context, &messages, &keeper) => {}
    }
    keeper.keep().await;
    Ok(())
}

/// What was kept by those before this lease. What is of a later one was taken before the clock was set back, and would
/// hide everything that comes now.
fn inherited(kept: &[u8], epoch: u64) -> impl Iterator<Item = Placed> {
    let samples = wire::read::<Part>(kept).into_iter().flat_map(Part::samples);
    samples.filter(move |(place, _)| place.epoch <= epoch)
}

/// Sample after sample. A late tick is skipped, not made up for.
async fn take(vitals: &Vitals, context: &PayloadContext, messages: &Messages, keeper: &Keeper<'_>) {
    let every = vitals.settings.sample_interval;
    let mut before = vitals.newest();
    // A rate needs two readings. The first sample should have them all, since the page shows a gap where it has not.
    let Some((mut sampler, ..)) = look(vitals, Sampler::default()).await else {
        return;
    };
    sleep(FIRST.min(every)).await;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut keep_at = Instant::now() + KEEP;
    // Another attempt goes on where no earlier one can have been.
    for number in u64::from(context.restarts()) << 32.. {
        ticks.tick().await;
        let Some((back, sample, processes)) = look(vitals, sampler).await else {
            return;
        };
        sampler = back;
        let place = Place {
            epoch: context.epoch(),
            number,
        };
        let fresh = Fresh {
            place,
            before: before.replace(place),
            sample,
            processes,
        };
        tell(messages, SAMPLE, &fresh);
        if keep_at <= Instant::now() {
            keeper.keep().await;
            let thousands = u32::try_from(vitals.count() / 1000).unwrap_or(u32::MAX);
            keep_at = Instant::now() + KEEP.saturating_mul(thousands.saturating_add(1));
        }
    }
}

/// One sample. `None`: the worker is on its way out.
async fn look(vitals: &Vitals, mut sampler: Sampler) -> Option<(Sampler, Sample, Vec<Process>)> {
    let members = sampler::members(&vitals.status());
    let reading = move || {
        let (sample, processes) = sampler.take(&Kernel, &members, StdInstant::now(), wall_clock());
        (sampler, sample, processes)
    };
    vitals.readings.take(reading).await
}

/// Tells the history to workers that have missed a part of it.
async fn answer(vitals: &Vitals, messages: &Messages, mut asks: Subscription) {
    loop {
        let mut after = asked(asks.recv().await);
        let deadline = Instant::now() + TOGETHER;
        while let Ok(more) = timeout_at(deadline, asks.recv()).await {
            after = after.min(asked(more));
        }
        for (at, part) in Part::split(after, &vitals.after(after)).iter().enumerate() {
            if at > 0 && at % BATCH == 0 {
                sleep(PAUSE).await;
            }
            tell(messages, HISTORY, part);
        }
    }
}

/// Who was not understood gets everything.
fn asked(message: std::result::Result<Message, Lagged>) -> Option<Place> {
    let ask = message
        .ok()
        .and_then(|message| wire::read::<Ask>(message.bytes()));
    ask.and_then(|ask| ask.after)
}

fn tell(messages: &Messages, topic: &str, message: &impl serde::Serialize) {
    if let Err(error) = messages.publish(topic, wire::write(message)) {
        tracing::warn!(error = %error, "a sample could not be told to the workers");
    }
}

/// Leaves the history to the next sampler.
struct Keeper<'a> {
    vitals: &'a Vitals,
    context: &'a PayloadContext,
    has_warned: AtomicBool,
}

impl Keeper<'_> {
    async fn keep(&self) {
        let history = self.vitals.after(None);
        let known = history.len();
        // Many samples of many cores take a moment to be written down, in which requests are to be answered.
        let legacy = move || wire::legacy(&history, PayloadContext::MOST_KEPT);
        let Ok((bytes, kept)) = tokio::task::spawn_blocking(legacy).await else {
            return;
        };
        if kept < known && !self.has_warned.swap(true, Relaxed) {
            tracing::warn!(
                kept,
                known,
                "the next sampler gets only a part of the history, which is too long; shorten it or sample less often"
            );
        }
        if let Err(error) = self.context.keep(bytes) {
            tracing::debug!(error = %error, "the history could not be kept for the next sampler");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_history_from_before_the_clock_was_set_back_hides_nothing_that_comes() {
        let sample = |epoch| {
            let place = Place { epoch, number: 0 };
            (place, Arc::new(Sample::at(1.0)))
        };
        let (kept, _) = wire::legacy(&[sample(5), sample(7), sample(9)], usize::MAX);
        let known: Vec<u64> = inherited(&kept, 7).map(|(place, _)| place.epoch).collect();
        assert_eq!(known, [5, 7]);
        assert_eq!(inherited(b"something else", 7).count(), 0);
    }
}
