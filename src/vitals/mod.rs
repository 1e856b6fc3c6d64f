#![doc = include_str!("interface.md")]

mod feed;
mod frames;
mod gaps;
mod health;
mod page;
mod proc;
mod readings;
mod ring;
mod routes;
mod sample;
mod sampler;
mod sampling;
mod settings;
mod shape;
mod state;
mod story;
mod stream;
mod wire;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::status::Scope;
use crate::{App, Context, Payload, Result, StepContext, service_fn};

pub use settings::Settings;

use state::Vitals;

/// The payload of which there is one in the service.
const SAMPLER: &str = "sampler";

/// The factory of the built-in app: what `payload` without a service of its own serves.
///
/// # Errors
/// None: it only builds.
pub async fn load(context: Context<Settings>) -> Result<App> {
    Ok(app(Vitals::of(&context)))
}

fn app(vitals: Vitals) -> App {
    let app = App::builder()
        .state(vitals)
        // Before the sampler, which reads from its first moment to its last.
        .step("readings", async |step: StepContext| {
            let vitals = step.state::<Vitals>()?;
            vitals.readings.open();
            // The teardown. One that takes too long is named by its step.
            Ok(async move || {
                vitals.readings.close().await;
                Ok(())
            })
        })
        // Each half: no reading takes so long, but where the kernel hangs.
        .timeout(Duration::from_secs(5))
        // The feed first: it hears the sampler from its first sample to its last.
        .payload(Payload::new("feed", feed::run))
        .payload(Payload::restarting(SAMPLER, sampling::run).scope(Scope::Service))
        .on_drain("streams", async |step: StepContext| {
            step.state::<Vitals>()?.end_streams();
            Ok(())
        });
    app.build(service_fn(routes::answer))
}

/// Whether a payload or a lease of this name is the sampler, also where the app is mounted below a path.
fn is_sampler(name: &str) -> bool {
    name.rsplit(": ").next() == Some(SAMPLER)
}

/// Seconds since 1970; 0 on a machine whose clock stands before that.
#[expect(
    clippy::disallowed_methods,
    reason = "when a sample was taken is shown to people"
)]
fn wall_clock() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

/// To four digits: what is measured is no better, and the JSON is a third of the size.
fn rounded(number: f64) -> f64 {
    (number * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
