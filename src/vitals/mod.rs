#![doc = include_str!("interface.md")]

mod feed;
mod frames;
mod gaps;
mod health;
mod page;
mod proc;
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

use std::time::{SystemTime, UNIX_EPOCH};

use crate::app::{App, Context, Payload, Result, service_fn};
use crate::status::Scope;

pub use settings::Settings;

use state::Vitals;

/// The payload of which there is one in the service.
const SAMPLER: &str = "sampler";

/// The factory of the built-in app: what `payload` without a service of its own serves.
///
/// # Errors
/// None: it only builds.
pub async fn load(context: Context<Settings>) -> Result<App> {
    let app = App::builder()
        .state(Vitals::of(&context))
        // The feed first: it hears the sampler from its first sample to its last.
        .payload(Payload::new("feed", feed::run))
        .payload(Payload::restarting(SAMPLER, sampling::run).scope(Scope::Service));
    Ok(app.build(service_fn(routes::answer)))
}

/// Whether a payload or a lease of this name is the sampler, also where the app is mounted below a path.
fn is_sampler(name: &str) -> bool {
    name.rsplit(": ").next() == Some(SAMPLER)
}

/// Seconds since 1970; 0 on a machine whose clock stands before that.
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
