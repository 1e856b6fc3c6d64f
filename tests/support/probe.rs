//! A service for the black-box tests: it starts, answers and stops as badly as its settings and its requests ask
//! for, and says in its log what it does.
//!
//! # Settings, `[app]`
//! - `load`, `startup`, `teardown`: `ok`, `fail`, `panic`, `hang` (awaits for ever), `block` (holds the thread),
//!   `greedy` (always has something to do, and gives way again and again).
//!   The app has three steps, `one`, `two` and `three`; the startup goes wrong in `three`, the teardown in `two`, or in
//!   those of `teardown_of`; `step_timeout`: each one's limit, in seconds.
//! - `drain`: as these, for a step at the drain, which there is only with this setting.
//! - `mount`: there is a mounted app at `/inner`, behind the steps, with a step `inner` and a payload `inner`.
//! - `startup_delay`: seconds, in step `three`; `startup_block`: the same, and holds the thread; `startup_failure`:
//!   the text of an error of that step; `gate`: a file that step waits for.
//! - `blocking`: seconds for which `load` leaves a thread held by `spawn_blocking`, as `/blocking` does.
//! - `payload`: `none`, `run` (until it is told to stop), `return`, `fail`, `panic` (these when asked by
//!   `/payload`), `ignore-stop`, `block` (both when told to stop).
//! - `policy`: of the payload: `critical`, `restart`, `once`.
//! - `go`: a file that lets the payload do what it is set to, when it appears.
//! - `ledger`: a file, which one more payload keeps (`ledger.rs`); `scope`: of that payload: `worker`, `slot`,
//!   `service`; `ledger_policy`: as `policy`; `ledger_after`: it stops after the requests; `ledger_keep`: it keeps its
//!   count for its successor before it writes it.
//! - `mail`, `sing`: see `mail.rs`
//! - `slot`: settings above hold in this slot only.
//! - `word`: what `/word` answers.
//! - `preload`: see `preloading.rs`.
//! - `steer`: a file. When it is there as `load` begins, its keys replace all of these.
//!
//! # Requests
//! - `/word`: the setting of this name
//! - `/`: the worker's pid, whatever the method; the request's body is not read
//! - `/sleep?ms=N`: the same, later, and says when it is cancelled; `/block?ms=N`: the same, and holds the thread
//! - `/deaf`: holds the thread, which answers a signal late
//! - `/gate?file=F`: the same, when the file is there; `/hold?file=F`: the same, and holds the thread until then
//! - `/gate-body?file=F`: a chunk, and another one when the file is there
//! - `/drain-block?ms=N`: the same as `/block`, from the beginning of the drain on
//! - `/thread`: the number of the thread that answers
//! - `/panic`; `/crash`: SIGKILL to itself
//! - `/echo`: the request's body; `/slow-body?ms=N&chunks=N`: so many chunks, so long apart
//! - `/busy?file=F`: answers at once, and declares the service busy until the file is there
//! - `/blocking?ms=N`: answers at once, and holds a thread by `spawn_blocking` for so long; says when that begins and is over
//! - `/payload`: lets the payload do what it is set to
//! - `/child`: `/proc/self/status` of a child of the worker; `/descriptors`: what a child has open; `/orphan`: the
//!   pid of a grandchild that outlives its parent and ends when it is killed
//! - `/environment`: the worker's variables, one a line; `/random`: its pid and numbers of generators in two
//!   of its threads; `/grow?mib=N`: takes and keeps so much memory; `/log?count=N`: writes so many records
//! - `/inner/where`: what the mounted app sees of the request: the path of its mount, the URI there, and that of the client
//! - `/mail/…`: `mail.rs`
//! - `/socket`, `/tunnel`, `/events`: `streams.rs`

mod answers;
mod antics;
mod birth;
mod deaf;
mod early;
mod ledger;
mod mail;
mod preloading;
mod streams;

use std::fs;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use nix::unistd::gettid;
use payload::{App, AppBuilder, Context, Payload, PayloadContext, Scope, Token};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "snake_case")]
struct Settings {
    load: Conduct,
    startup: Conduct,
    startup_delay: f64,
    startup_block: f64,
    startup_failure: Option<String>,
    gate: Option<PathBuf>,
    blocking: f64,
    teardown: Conduct,
    teardown_of: Option<Vec<String>>,
    step_timeout: Option<f64>,
    drain: Option<Conduct>,
    mount: bool,
    payload: Task,
    policy: Policy,
    go: Option<PathBuf>,
    ledger: Option<PathBuf>,
    scope: Scope,
    ledger_policy: Policy,
    ledger_after: bool,
    ledger_keep: bool,
    mail: bool,
    sing: Option<u64>,
    slot: Option<u32>,
    word: String,
    steer: Option<PathBuf>,
    preload: preloading::Settings,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Conduct {
    #[default]
    Ok,
    Fail,
    Panic,
    Hang,
    Block,
    Greedy,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Task {
    #[default]
    None,
    Run,
    Return,
    Fail,
    Panic,
    IgnoreStop,
    Block,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    #[default]
    Critical,
    Restart,
    Once,
}

/// An error with a cause.
#[derive(Debug, thiserror::Error)]
#[error("read the table")]
struct Unreadable(#[source] io::Error);

fn main() -> ExitCode {
    birth::attend();
    let _antics = antics::perform();
    let _early = early::begin();
    if std::env::var_os("PROBE_PRELOAD").is_none() {
        return payload::main(load);
    }
    payload::preload(|settings: &Settings| preloading::table(&settings.preload))
        .main(async |context, table| load_with(context, Some(table)).await)
}

async fn load(context: Context<Settings>) -> payload::Result<App> {
    load_with(context, None).await
}

async fn load_with(
    context: Context<Settings>,
    table: Option<&'static preloading::Table>,
) -> payload::Result<App> {
    tracing::info!(probe = "load", thread = gettid().as_raw(), "probe");
    let owned = Arc::new(Owned);
    let settings = context.settings().steered()?.for_slot(context.slot());
    if settings.blocking > 0.0 {
        answers::block_aside(Duration::from_secs_f64(settings.blocking)).await;
    }
    behave(settings.load).await?;
    let go = Arc::new(Notify::new());
    let mail = settings.mail.then(|| mail::Mail::open(&context));
    let app = match &mail {
        Some(mail) => mail.register(App::builder(), settings.sing),
        None => App::builder(),
    };
    let app = app.state(Arc::clone(&owned));
    let app = settings.step(app, "one", async { Ok(()) });
    let app = settings.step(app, "two", async { Ok(()) });
    let app = settings.step(app, "three", settings.clone().start());
    let app = match settings.drain {
        Some(conduct) => {
            let token = context.drain_token();
            app.on_drain("drain", async move |_| drain(&token, conduct).await)
        }
        None => app,
    };
    let app = if settings.mount {
        app.mount("/inner", settings.inner())
    } else {
        app
    };
    let app = match settings.task(&go) {
        Some(payload) => app.payload(payload),
        None => app,
    };
    let app = match settings.ledger() {
        Some(payload) => app.payload(payload),
        None => app,
    };
    let word = settings.word;
    let drained = context.drain_token();
    let routes = answers::routes(go)
        .route("/word", get(async || word))
        .route(
            "/drain-block",
            get(async move |timing| {
                // For as long as there is somebody who could answer.
                let _owned = owned;
                drained.fired().await;
                answers::block(timing).await
            }),
        )
        .merge(streams::routes(context.drain_token()))
        .merge(mail.map_or_else(Router::new, |mail| mail.routes()))
        .route(
            "/preloaded",
            get(async move || table.map_or_else(String::new, preloading::Table::told)),
        )
        .route(
            "/busy",
            get(async move |gate| answers::busy(&context, gate)),
        );
    Ok(app.build(routes))
}

impl Settings {
    fn steered(&self) -> payload::Result<Self> {
        let text = self.steer.as_ref().map(fs::read_to_string);
        match text {
            Some(Ok(text)) => Ok(toml::from_str(&text)?),
            _ => Ok(self.clone()),
        }
    }

    fn for_slot(self, slot: u32) -> Self {
        match self.slot {
            Some(other) if other != slot => Self {
                word: self.word,
                ..Self::default()
            },
            _ => self,
        }
    }

    async fn start(self) -> payload::Result<()> {
        if self.gate.is_some() {
            appears(self.gate).await;
        }
        tokio::time::sleep(Duration::from_secs_f64(self.startup_delay)).await;
        hold_the_thread(Duration::from_secs_f64(self.startup_block));
        if let Some(text) = self.startup_failure {
            return Err(text.into());
        }
        behave(self.startup).await
    }

    fn step(
        &self,
        app: AppBuilder,
        name: &'static str,
        begin: impl Future<Output = payload::Result<()>> + Send + 'static,
    ) -> AppBuilder {
        let goes_wrong = match &self.teardown_of {
            Some(steps) => steps.iter().any(|step| step == name),
            None => name == "two",
        };
        let end = if goes_wrong {
            self.teardown
        } else {
            Conduct::Ok
        };
        let app = step(app, name, begin, end);
        match self.step_timeout {
            Some(limit) => app.timeout(Duration::from_secs_f64(limit)),
            None => app,
        }
    }

    fn inner(&self) -> App {
        let app = self.step(App::builder(), "inner", async { Ok(()) });
        let payload = Payload::new("inner", async |context: PayloadContext| {
            let _held = Held("/inner: inner");
            context.stopped().await;
            Ok(())
        });
        let routes = Router::new().route("/where", get(answers::whereabouts));
        app.payload(payload).build(routes)
    }

    fn task(&self, go: &Arc<Notify>) -> Option<Payload> {
        let (task, go, file) = (self.payload, go.clone(), self.go.clone());
        let run = move |context| work(task, context, go.clone(), file.clone());
        match (task, self.policy) {
            (Task::None, _) => None,
            (_, Policy::Critical) => Some(Payload::new("task", run)),
            (_, Policy::Once) => Some(Payload::once("task", run)),
            (_, Policy::Restart) => Some(Payload::restarting("task", run)),
        }
        .map(|payload| payload.stop_timeout(Duration::from_secs(1)))
    }

    fn ledger(&self) -> Option<Payload> {
        let file = self.ledger.clone()?;
        let (scope, keep) = (self.scope, self.ledger_keep);
        let run = move |context| ledger::keep(context, file.clone(), scope, keep);
        let payload = match self.ledger_policy {
            Policy::Critical => Payload::new("ledger", run),
            Policy::Once => Payload::once("ledger", run),
            Policy::Restart => Payload::restarting("ledger", run),
        };
        let payload = payload.scope(scope).stop_timeout(Duration::from_secs(1));
        Some(if self.ledger_after {
            payload.stop_after_requests()
        } else {
            payload
        })
    }
}

/// What an app owns, wherever it has it. Says so when nobody has it any more.
struct Owned;

impl Drop for Owned {
    fn drop(&mut self) {
        tracing::info!(probe = "released", "probe");
    }
}

/// What a payload holds for as long as its future is there. Says so when that is gone.
struct Held(&'static str);

impl Drop for Held {
    fn drop(&mut self) {
        tracing::info!(gone = self.0, "what a payload holds is dropped");
    }
}

async fn drain(token: &Token, conduct: Conduct) -> payload::Result<()> {
    let deadline = token.deadline().map_or("none", |_| "some");
    tracing::info!(probe = "drain", deadline, "probe");
    behave(conduct).await
}

fn step(
    app: AppBuilder,
    name: &'static str,
    begin: impl Future<Output = payload::Result<()>> + Send + 'static,
    end: Conduct,
) -> AppBuilder {
    app.step(name, async move |_| {
        begin.await?;
        tracing::info!(probe = "startup", step = name, "probe");
        Ok(async move || {
            tracing::info!(probe = "teardown", step = name, "probe");
            behave(end).await
        })
    })
}

#[expect(clippy::panic, reason = "what it is for")]
async fn behave(conduct: Conduct) -> payload::Result<()> {
    match conduct {
        Conduct::Ok => Ok(()),
        Conduct::Fail => Err(Unreadable(io::Error::other("no such table")).into()),
        Conduct::Panic => panic!("asked to panic"),
        Conduct::Hang => pending().await,
        Conduct::Block => {
            hold_the_thread(Duration::MAX);
            Ok(())
        }
        Conduct::Greedy => loop {
            consume_budget().await;
        },
    }
}

#[expect(clippy::panic, reason = "what it is for")]
async fn work(
    task: Task,
    context: PayloadContext,
    go: Arc<Notify>,
    file: Option<PathBuf>,
) -> payload::Result<()> {
    let _held = Held("task");
    let told = tokio::select! {
        () = go.notified() => false,
        () = appears(file) => false,
        () = context.stopped() => true,
    };
    match task {
        Task::IgnoreStop => pending().await,
        Task::Block => {
            hold_the_thread(Duration::MAX);
            Ok(())
        }
        Task::Fail if !told => Err(Unreadable(io::Error::other("no such queue")).into()),
        Task::Panic if !told => panic!("asked to panic"),
        _ => Ok(()),
    }
}

async fn appears(file: Option<PathBuf>) {
    match file {
        Some(file) => {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        None => pending().await,
    }
}

/// A name to look for in a backtrace.
#[inline(never)]
fn hold_the_thread(time: Duration) {
    thread::sleep(time);
}
