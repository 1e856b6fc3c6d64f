//! The worker's life: its phases, and what leads from one to the next.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::observer::Observed;
use super::phase::Phase;
use super::post::{self, Post};
use super::reports::Reports;
use super::runtime::{self, beat_interval, heartbeat};
use super::server::Server;
use super::stages::Stages;
use super::view::View;
use super::wish::{Wish, told_to_hurry, told_to_serve, told_to_stop, until};
use super::{Load, Start};
use crate::app::act::panic_message;
use crate::app::leases::Leases;
use crate::app::running::Running;
use crate::app::start::Launch;
use crate::app::{App, Context, ContextParts, Desk, Outlook, StepError, Tokens};
use crate::config::Config;
use crate::exit::{ExitCode, chain};
use crate::ipc::channel::{Channel, Report};
use crate::ipc::orders::{Level, Order, Recycle};
use crate::messages::Messages;
use crate::sockets::Listener;

/// Why a worker fails that has done everything else well.
const CUT_OFF: &str =
    "blocking work did not end by the deadline: raise timeouts.cleanup if it needs longer";

/// How long the acceptors may take to come to an end.
const LAST_ACCEPT: Duration = Duration::from_millis(50);

/// How long the drain steps of the app may take to begin.
const FIRST_WORDS: Duration = Duration::from_millis(50);

/// Orders about accepting and about links to other workers, with the links. Each is here before a wish that came after it.
pub(super) type Links = mpsc::UnboundedReceiver<(Order, Option<OwnedFd>)>;

/// Everything between the fork and the exit, for the app's thread.
pub(super) struct Life {
    worker: u64,
    slot: u16,
    generation: u32,
    workers: u32,
    config: Arc<Config>,
    listeners: Arc<[Listener]>,
    channel: Arc<Channel>,
    reports: Arc<Reports>,
    stages: Arc<Stages>,
    wishes: watch::Receiver<Wish>,
    links: Links,
    leases: Arc<Leases>,
    view: Arc<View>,
    post: Arc<Post>,
    mailbox: Option<post::Mailbox>,
    messages: Messages,
    /// The keeper's runtime: time passes there, whatever blocks the app's threads.
    keeper: Handle,
    /// The deadline of its cleanup, or of the unwinding of its startup, once that has begun.
    ends_at: Option<Instant>,
}

/// How a life came to its end.
enum End {
    /// As it was told to.
    Told,
    Failed(String),
}

impl Life {
    /// To be called in the keeper's runtime.
    pub(super) fn new(start: Start, wishes: watch::Receiver<Wish>, links: Links) -> Self {
        let channel = Arc::new(start.channel);
        let reports = Arc::new(Reports::new(channel.clone()));
        let view = View::new(start.briefing, start.meter.clone(), start.listeners.clone());
        let leases = Leases::new(u32::from(start.slot), start.workers);
        let (post, mailbox) = Post::new(
            start.worker,
            start.mailbox,
            start.peers,
            start.meter.clone(),
        );
        Self {
            view: Arc::new(view),
            worker: start.worker,
            slot: start.slot,
            generation: start.generation,
            workers: start.workers,
            config: start.config,
            listeners: start.listeners,
            stages: Arc::new(Stages::new(reports.clone(), start.meter, start.cause)),
            leases: Arc::new(leases.with_custodian(reports.clone())),
            channel,
            reports,
            wishes,
            links,
            messages: post.messages(),
            post,
            mailbox: Some(mailbox),
            keeper: Handle::current(),
            ends_at: None,
        }
    }

    /// Where grants go, from any thread.
    pub(super) fn leases(&self) -> Arc<Leases> {
        self.leases.clone()
    }

    /// Where news go, from any thread.
    pub(super) fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// Where other workers are introduced, from any thread.
    pub(super) fn post(&self) -> Arc<Post> {
        self.post.clone()
    }

    pub(super) fn stages(&self) -> Arc<Stages> {
        self.stages.clone()
    }

    pub(super) fn channel(&self) -> Arc<Channel> {
        self.channel.clone()
    }

    /// What is said over it, from any thread.
    pub(super) fn reports(&self) -> Arc<Reports> {
        self.reports.clone()
    }

    /// From Forked to Exited or Failed, in a runtime of its own that ends with it.
    pub(super) fn live<S: Send + Sync + 'static>(self, settings: S, load: Load<S>) -> ExitCode {
        let stages = self.stages.clone();
        let end = match runtime::build(self.config.threads) {
            Ok((runtime, wake)) => {
                let every = beat_interval(&self.config.timeouts);
                let (end, ends_at) = runtime.block_on(self.run(settings, load));
                drop(wake);
                if runtime::end(runtime, ends_at, every, || stages.beat()) {
                    end
                } else {
                    cut_off(&stages, end)
                }
            }
            Err(error) => {
                let reason = format!("the worker's runtime cannot be built: {error}");
                stages.fail(&reason);
                End::Failed(reason)
            }
        };
        match end {
            End::Told => {
                stages.enter(Phase::Exited);
                ExitCode::Ok
            }
            End::Failed(_) => {
                stages.enter(Phase::Failed);
                ExitCode::Software
            }
        }
    }

    /// All of it, with the messages of other workers: those that it publishes on its way out are sent at its end. With
    /// the deadline of what is left.
    async fn run<S: Send + Sync + 'static>(
        mut self,
        settings: S,
        load: Load<S>,
    ) -> (End, Option<Instant>) {
        let mailbox = self.mailbox.take();
        let office = mailbox.map(|mailbox| self.post.clone().open(mailbox));
        let end = self.run_app(settings, load).await;
        if let Some(office) = office {
            let stages = &self.stages;
            let tell = |worker, topics| stages.try_report(&Report::Unsent { worker, topics });
            office.close(self.ends_at, tell).await;
        }
        (end, self.ends_at)
    }

    async fn run_app<S: Send + Sync + 'static>(&mut self, settings: S, load: Load<S>) -> End {
        tokio::spawn(heartbeat(
            self.stages.clone(),
            beat_interval(&self.config.timeouts),
        ));
        let deadline = after(self.config.timeouts.startup);
        let tokens = Tokens::default();
        let observer = Arc::new(Observed::new(self.stages.clone()));
        let context = self.context(settings, tokens.clone(), deadline, &observer);
        let app = match self.load(context, load, deadline).await {
            Ok(app) => app,
            Err(end) => return self.told_or_said(end),
        };
        let started = self.start(app, tokens, observer.clone(), deadline).await;
        let declared = observer.payloads();
        self.stages.report(&Report::Payloads {
            names: declared.names,
            scopes: declared.scopes,
            once: declared.once,
        });
        match started {
            Ok(running) => {
                let end = self.serve(running).await;
                self.told_or_said(end)
            }
            Err(end) => self.told_or_said(end),
        }
    }

    /// `load`, in a task of its own: its panic is an error, and it can be given up.
    async fn load<S: Send + Sync + 'static>(
        &mut self,
        context: Context<S>,
        load: Load<S>,
        deadline: Option<Instant>,
    ) -> Result<App, End> {
        self.stages.enter(Phase::Loading);
        self.stages.meter().seat().loads.fetch_add(1, Relaxed);
        // What an error says is the author's code as well.
        let mut task = tokio::spawn(async { load(context).await.map_err(|error| chain(&*error)) });
        let failed = |error: String| End::Failed(format!("load failed: {error}"));
        let given_up = tokio::select! {
            biased;
            loaded = &mut task => {
                let error = match loaded {
                    Ok(Ok(app)) => return Ok(app),
                    Ok(Err(error)) => failed(error),
                    Err(error) if error.is_panic() => End::Failed(format!("load panicked: {}", panic_message(error.into_panic()))),
                    Err(error) => failed(error.to_string()),
                };
                self.ends_at = after(self.config.timeouts.cleanup);
                return Err(error);
            }
            () = told_to_stop(&self.wishes) => End::Told,
            () = until(deadline) => End::Failed(overran("load", self.config.timeouts.startup)),
        };
        task.abort();
        self.ends_at = after(self.config.timeouts.cleanup);
        // What it has borrowed and opened is released before the worker goes on.
        let _ = task.await;
        Err(given_up)
    }

    async fn start(
        &mut self,
        app: App,
        tokens: Tokens,
        observer: Arc<Observed>,
        deadline: Option<Instant>,
    ) -> Result<Running, End> {
        self.stages.enter(Phase::Starting);
        let cancel = CancellationToken::new();
        let launch = Launch {
            cancel: cancel.clone(),
            tokens,
            desk: self.desk(),
            messages: self.messages.clone(),
            outlook: self.outlook(&observer),
            deadline,
            cleanup: self.config.timeouts.cleanup,
            observer,
            leases: self.leases.clone(),
        };
        let mut starting = std::pin::pin!(app.start(launch));
        let mut too_late = false;
        let failure = tokio::select! {
            biased;
            started = &mut starting => match started {
                Ok(running) => return Ok(running),
                Err(failure) => failure,
            },
            () = told_to_stop(&self.wishes) => {
                cancel.cancel();
                match starting.await {
                    Ok(running) => return Ok(running),
                    Err(failure) => failure,
                }
            }
            () = until(deadline) => {
                too_late = true;
                cancel.cancel();
                match starting.await {
                    Ok(running) => return Ok(running),
                    Err(failure) => failure,
                }
            }
        };
        self.ends_at = failure.until();
        Err(match (failure.is_cancelled(), too_late) {
            (true, true) => End::Failed(overran(
                &failure.step().map_or_else(
                    || "the startup".to_owned(),
                    |step| format!("startup step '{step}'"),
                ),
                self.config.timeouts.startup,
            )),
            (true, false) => match summary(failure.unwinding()) {
                None => End::Told,
                Some(what) => End::Failed(format!("{what}, after the startup was cancelled")),
            },
            (false, _) => End::Failed(chain(&failure)),
        })
    }

    /// Prepared, Serving, Draining, Cleaning.
    async fn serve(&mut self, mut running: Running) -> End {
        let limit = self
            .config
            .recycle
            .max_requests
            .map(|max| max.saturating_add(jitter(self.config.recycle.max_requests_jitter)));
        let server = Server::new(
            self.listeners.clone(),
            running.service().clone(),
            self.config.http.clone(),
            self.stages.meter().clone(),
            limit,
        );
        self.stages.enter(Phase::Prepared);
        let end = self.serve_until_end(&server, &running).await;
        if let End::Failed(reason) = &end {
            self.stages.fail(reason);
        }
        // Both come first: who hears that it drains relies on them. Handlers that block the acceptors' threads hold that up
        // for a moment only.
        self.take_links(&server);
        server.close();
        self.at_most(LAST_ACCEPT, server.nobody_accepts()).await;
        self.stages.enter(Phase::Draining);
        let deadline = self.drain_deadline();
        running.drain(deadline);
        // Requests may be cut off next. What the app has to tell them comes first, unless it blocks its thread.
        self.at_most(FIRST_WORDS, running.drain_begun()).await;
        let is_over = self.drain(&server, deadline).await;
        // One deadline for all that is left, the end of the requests among it.
        self.ends_at = after(self.config.timeouts.cleanup);
        let left = if is_over { 0 } else { server.connections() };
        let rest = if is_over {
            None
        } else {
            server.cancel(self.patience()).await
        };
        if rest.is_some() {
            tracing::warn!(
                "requests that were cancelled have not ended: the cleanup begins beside them"
            );
        }
        server.end(left).await;
        self.stages.enter(Phase::Cleaning);
        drop(server);
        let stopped = running.stop(self.ends_at).await;
        let blocked = match rest {
            Some(rest) => rest.end().await,
            None => None,
        };
        match (end, summary(&stopped.all_errors()).or(blocked)) {
            (End::Told, Some(what)) => End::Failed(what),
            (end, _) => end,
        }
    }

    /// Waits for this, and no longer than `limit`, also where every thread of the app's runtime is blocked: none of them
    /// would keep the time.
    async fn at_most(&self, limit: Duration, what: impl Future<Output = ()>) {
        let mut over = self.keeper.spawn(async move { sleep(limit).await });
        tokio::select! {
            () = what => over.abort(),
            _ = &mut over => {}
        }
    }

    /// For requests that do not end although they are cancelled. At least half of the cleanup's time is not theirs.
    fn patience(&self) -> Duration {
        let cleanup = self.config.timeouts.cleanup;
        cleanup.map_or(Server::PATIENCE, |limit| Server::PATIENCE.min(limit / 2))
    }

    async fn serve_until_end(&mut self, server: &Server, running: &Running) -> End {
        let mut failed = std::pin::pin!(running.failed());
        tokio::select! {
            biased;
            () = told_to_stop(&self.wishes) => return End::Told,
            failure = &mut failed => return End::Failed(failure.to_string()),
            () = told_to_serve(&self.wishes) => {}
        }
        if let Err(failure) = server.serve() {
            return End::Failed(chain(&failure));
        }
        self.stages.enter(Phase::Serving);
        let mut recycled = false;
        loop {
            tokio::select! {
                biased;
                () = told_to_stop(&self.wishes) => return End::Told,
                (order, link) = next_link(&mut self.links) => server.link(order, link),
                failure = &mut failed => return End::Failed(failure.to_string()),
                failure = server.fatal() => return End::Failed(chain(&failure)),
                round = server.paused() => self.stages.report(&Report::Paused { round }),
                () = server.request_limit(), if !recycled => {
                    recycled = true;
                    self.stages.report(&Report::Recycle { cause: Recycle::Requests });
                }
            }
        }
    }

    /// Until no connection is left, the deadline has passed, or the wish has become more urgent. Whether none is left.
    async fn drain(&mut self, server: &Server, deadline: Option<Instant>) -> bool {
        self.take_links(server);
        loop {
            tokio::select! {
                biased;
                () = server.drain() => return true,
                (order, link) = next_link(&mut self.links) => server.link(order, link),
                () = told_to_hurry(&self.wishes) => return false,
                () = until(deadline) => {
                    tracing::warn!("requests did not end within timeouts.graceful and are cancelled");
                    return false;
                }
            }
        }
    }

    /// When requests are cancelled that have not ended: at once, when the stop is a quick one.
    fn drain_deadline(&self) -> Option<Instant> {
        if *self.wishes.borrow() >= Wish::Stop(Level::Quick) {
            Some(Instant::now())
        } else {
            after(self.config.timeouts.graceful)
        }
    }

    /// Those that came with or before the order to stop count from its beginning.
    fn take_links(&mut self, server: &Server) {
        while let Ok((order, link)) = self.links.try_recv() {
            server.link(order, link);
        }
    }

    fn told_or_said(&self, end: End) -> End {
        if let End::Failed(reason) = &end {
            self.stages.fail(reason);
        }
        end
    }

    fn desk(&self) -> Desk {
        Desk::new(self.stages.meter().clone())
    }

    fn context<S>(
        &self,
        settings: S,
        tokens: Tokens,
        startup_deadline: Option<Instant>,
        observer: &Arc<Observed>,
    ) -> Context<S> {
        let parts = ContextParts {
            worker: self.worker,
            slot: u32::from(self.slot),
            generation: self.generation,
            workers: self.workers,
            tokens,
            startup_deadline,
            desk: self.desk(),
            messages: self.messages.clone(),
            outlook: self.outlook(observer),
        };
        Context::new(settings, parts)
    }

    fn outlook(&self, observer: &Arc<Observed>) -> Outlook {
        let (view, observer) = (self.view.clone(), observer.clone());
        Outlook {
            events: view.events(),
            service: Arc::new(move || view.status(&observer)),
        }
    }
}

/// Everything else is over: only the process can end what is left.
fn cut_off(stages: &Stages, end: End) -> End {
    tracing::error!("{CUT_OFF}");
    match end {
        End::Told => {
            stages.fail(CUT_OFF);
            End::Failed(CUT_OFF.to_owned())
        }
        End::Failed(reason) => End::Failed(reason),
    }
}

/// Cancel-safe.
async fn next_link(links: &mut Links) -> (Order, Option<OwnedFd>) {
    match links.recv().await {
        Some(link) => link,
        None => std::future::pending().await,
    }
}

fn after(limit: Option<Duration>) -> Option<Instant> {
    limit.and_then(|limit| Instant::now().checked_add(limit))
}

/// The first error, and how many more there are.
fn summary(errors: &[StepError]) -> Option<String> {
    let first = errors.first()?;
    Some(match errors.len() {
        1 => first.to_string(),
        count => format!("{first} (and {} more)", count - 1),
    })
}

fn overran(what: &str, limit: Option<Duration>) -> String {
    format!(
        "{what} did not end within {:?}: raise timeouts.startup if it needs longer",
        limit.unwrap_or_default()
    )
}

fn jitter(most: u64) -> u64 {
    if most == 0 {
        0
    } else {
        fastrand::u64(0..=most)
    }
}
