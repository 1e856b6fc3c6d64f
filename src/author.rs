//! What the author of a service has given to its `main`, for the arbiter that knows none of its types.

use crate::app::{App, Context};
use crate::exit::{BoxError, ExitCode, Failure};
use crate::preload::{self, Step};
use crate::worker;

/// The author's code, as the arbiter needs it.
pub(crate) trait Author {
    /// Whether workers can be forked.
    fn is_prepared(&self) -> bool;

    /// Runs the preload, unless that has been done. It may take its time.
    ///
    /// # Errors
    /// It failed, and can be tried again.
    fn prepare(&mut self) -> Result<(), Failure>;

    /// In a worker: lives its whole life.
    fn work(self: Box<Self>, start: worker::Start) -> ExitCode;
}

/// What came with `main`, before the settings are known.
pub(crate) struct Given<S> {
    load: Loader<S>,
}

enum Loader<S> {
    Ready(worker::Load<S>),
    /// Makes the load from what it preloads.
    Preloading(Prepare<S>),
}

type Prepare<S> = Box<dyn FnMut(&S) -> Result<worker::Load<S>, Failure>>;

impl<S: 'static> Given<S> {
    pub(crate) fn plain<L, F, E>(load: L) -> Self
    where
        L: FnOnce(Context<S>) -> F + Send + 'static,
        F: Future<Output = Result<App, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self {
            load: Loader::Ready(boxed(load)),
        }
    }

    pub(crate) fn preloading<P, L, F, E>(mut step: Step<S, P>, load: L) -> Self
    where
        P: Sync + 'static,
        L: FnOnce(Context<S>, &'static P) -> F + Send + 'static,
        F: Future<Output = Result<App, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let mut load = Some(load);
        let prepare = move |settings: &S| {
            let value = preload::run(&mut step, settings)?;
            // Once: what comes of it is kept.
            let load = load.take().ok_or_else(|| {
                Failure::new(ExitCode::Software, "the preload has been run already")
            })?;
            // For the rest of the process's life, and of every worker's.
            let value: &'static P = Box::leak(Box::new(value));
            Ok(boxed(move |context| load(context, value)))
        };
        Self {
            load: Loader::Preloading(Box::new(prepare)),
        }
    }

    pub(crate) fn with(self, settings: S) -> Box<Prepared<S>> {
        Box::new(Prepared {
            settings,
            load: self.load,
        })
    }
}

/// All that a worker needs, or nearly.
pub(crate) struct Prepared<S> {
    settings: S,
    load: Loader<S>,
}

impl<S: Send + Sync + 'static> Author for Prepared<S> {
    fn is_prepared(&self) -> bool {
        matches!(self.load, Loader::Ready(_))
    }

    fn prepare(&mut self) -> Result<(), Failure> {
        if let Loader::Preloading(prepare) = &mut self.load {
            self.load = Loader::Ready(prepare(&self.settings)?);
        }
        Ok(())
    }

    fn work(self: Box<Self>, start: worker::Start) -> ExitCode {
        match self.load {
            Loader::Ready(load) => worker::run(start, self.settings, load),
            Loader::Preloading(_) => {
                tracing::error!("a worker was forked before the preload");
                ExitCode::Software
            }
        }
    }
}

fn boxed<S, L, F, E>(load: L) -> worker::Load<S>
where
    L: FnOnce(Context<S>) -> F + Send + 'static,
    F: Future<Output = Result<App, E>> + Send + 'static,
    E: Into<BoxError>,
{
    Box::new(move |context| {
        let loading = load(context);
        Box::pin(async move { loading.await.map_err(Into::into) })
    })
}
