//! A step that runs in the arbiter before the fork, and whose result every worker shares.

use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;

use crate::alone::{listed, threads_left};
use crate::app::{App, Context};
use crate::author::Given;
use crate::exit::{BoxError, ExitCode, Failure};
use crate::service;

/// The step, as [`Given`] runs it: once, or again after a failure.
pub(crate) type Step<S, P> = Box<dyn FnMut(&S) -> Result<P, BoxError>>;

/// Begins a service with a preload: `step` runs once in the arbiter, before any worker is forked, and every worker's
/// `load` gets a reference to what it returns. The memory is shared copy-on-write: a table of a gigabyte is there
/// once, however many workers there are.
///
/// ```no_run
/// use std::collections::HashSet;
///
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     words: std::path::PathBuf,
/// }
///
/// type Words = HashSet<String>;
///
/// fn words(settings: &Settings) -> payload::Result<Words> {
///     let text = std::fs::read_to_string(&settings.words)?;
///     Ok(text.lines().map(str::to_owned).collect())
/// }
///
/// async fn load(
///     _context: payload::Context<Settings>,
///     words: &'static Words,
/// ) -> payload::Result<payload::App> {
///     let service = payload::service_fn(move |request: http::Request<payload::Body>| async move {
///         let known = words.contains(request.uri().path());
///         Ok(http::Response::new(payload::Body::from(known.to_string())))
///     });
///     Ok(payload::App::builder().build(service))
/// }
///
/// fn main() -> std::process::ExitCode {
///     payload::preload(words).main(load)
/// }
/// ```
///
/// # When it runs
/// At the start, after the configuration and the sockets are known to be good. At each reload with the new binary
/// and the new configuration: first in the check, in a process of its own that ends with it, and then in the arbiter,
/// while the old workers serve. Once more in the old binary when a reload was taken back: its memory was lost by the
/// exec. It must bear that, so it should only read.
///
/// # What it must not do
/// Leave a thread running: a process with threads cannot be forked, since a lock that one of them holds would be
/// locked for ever in the child. That is an error which names them. A runtime, a connection pool or a thread pool
/// belongs into `load`. Threads that it has joined are fine.
///
/// An error or a panic ends the start with exit code 70, and has a reload taken back. Where a reload was taken back
/// and the step fails in the old binary as well, the workers that are there serve on; it is tried again for each
/// worker that has to be replaced.
///
/// # What to know
/// - It blocks the arbiter, which meanwhile replaces no worker and answers no command. The watchdog of systemd and its
///   limits are put off for `timeouts.startup`. A stop at the start ends it at once; one during a reload comes
///   after it. The check of a reload has `reload.preflight` (10 s) for all of it: raise that for a long one.
/// - The value is never dropped, and each worker has its own copy of what it changes: a `Mutex` or an atomic in it is
///   not shared between workers. Changing a reference count (an [`Arc`] that is cloned) copies a page of memory too.
/// - A file in it is one file for all workers, with one offset. A random generator in it says the same in all.
pub fn preload<S, P, F, E>(mut step: F) -> Preload<S, P>
where
    F: FnMut(&S) -> Result<P, E> + 'static,
    P: Sync + 'static,
    E: Into<BoxError>,
{
    Preload {
        step: Box::new(move |settings| step(settings).map_err(Into::into)),
    }
}

/// A service that has a preload and no `load` yet. Made by [`preload`].
#[must_use = "it runs when its main is called"]
pub struct Preload<S, P> {
    step: Step<S, P>,
}

impl<S, P> Preload<S, P>
where
    S: DeserializeOwned + Send + Sync + 'static,
    P: Sync + 'static,
{
    /// Runs the service, as [`main`](crate::main) does. `load` gets the result of the preload besides its context.
    pub fn main<L, F, E>(self, load: L) -> std::process::ExitCode
    where
        L: FnOnce(Context<S>, &'static P) -> F + Send + 'static,
        F: Future<Output = Result<App, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        service::run(Given::preloading(self.step, load)).into()
    }
}

impl<S, P> fmt::Debug for Preload<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preload").finish_non_exhaustive()
    }
}

/// Runs the step in this process, which must have one thread before and after it.
///
/// # Errors
/// It returned one, it panicked, or it left a thread: exit code 70.
pub(crate) fn run<S, P>(step: &mut Step<S, P>, settings: &S) -> Result<P, Failure> {
    // A step that was run before may have left some; it would leave more.
    let alone = || match threads_left() {
        threads if threads.is_empty() => Ok(()),
        threads => Err(failed(too_many(&threads))),
    };
    alone()?;
    let value = caught(|| step(settings))
        .map_err(failed)?
        .map_err(|error| Failure::new(ExitCode::Software, "preload failed").because(error))?;
    alone()?;
    Ok(value)
}

fn failed(what: String) -> Failure {
    Failure::new(ExitCode::Software, what)
}

/// A panic is told once, as the reason of the failure, with its place.
fn caught<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    let told = Arc::new(Mutex::new(None::<String>));
    let note = told.clone();
    let before = take_hook();
    set_hook(Box::new(move |panic| {
        // Of several threads the first is the cause.
        let mut told = note.lock().unwrap_or_else(PoisonError::into_inner);
        told.get_or_insert_with(|| text_of(panic));
    }));
    let result = catch_unwind(AssertUnwindSafe(act));
    set_hook(before);
    result.map_err(|_| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        told.take().unwrap_or_else(|| "preload panicked".to_owned())
    })
}

fn text_of(panic: &PanicHookInfo<'_>) -> String {
    let text = panic.payload_as_str().unwrap_or("(no text)");
    match panic.location() {
        Some(place) => format!("preload panicked: {text} ({place})"),
        None => format!("preload panicked: {text}"),
    }
}

fn too_many(threads: &[String]) -> String {
    let names = listed(threads);
    let (threads, them) = match threads.len() {
        1 => ("a thread", "it"),
        _ => ("threads", "them"),
    };
    format!(
        "preload has started {threads} and left {them} running ({names}): a process with threads cannot be forked; \
         join {them} before it returns, or start {them} in load"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named() {
        let names = |count: usize| -> Vec<String> { (0..count).map(|n| format!("t{n}")).collect() };
        assert_eq!(
            too_many(&names(1)),
            "preload has started a thread and left it running ('t0'): a process with threads cannot be forked; join \
             it before it returns, or start it in load"
        );
        assert!(
            too_many(&names(7))
                .contains("left them running ('t0', 't1', 't2', 't3', 't4' and 2 more): ")
        );
    }
}
