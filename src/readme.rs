//! The README's examples, compiled. It can hide no line, so those that need something around them stand here once more,
//! in its order, with what that is; `tests/app/readme.rs` compares the two.

#[doc = include_str!("../README.md")]
mod as_they_are {}

/// ```no_run
/// # use axum::{Router, routing::get};
/// # use payload::{App, StepContext};
/// # type Done = std::future::Ready<payload::Result<()>>;
/// # async fn open_log(_: StepContext) -> payload::Result<impl FnOnce() -> Done> {
/// #     Ok(|| std::future::ready(Ok(())))
/// # }
/// # async fn users() {}
/// # async fn home() {}
/// # fn app() -> App {
/// let admin = App::builder()
///     .step("audit log", open_log)
///     .build(Router::new().route("/users", get(users)));
///
/// App::builder()
///     .mount("/admin", admin) // GET /admin/users
///     .build(Router::new().route("/", get(home)))
/// # }
/// ```
mod an_app_within_an_app {}

/// ```no_run
/// # use payload::{Payload, PayloadContext, Scope};
/// # async fn schedule(_: PayloadContext) -> payload::Result<()> { Ok(()) }
/// # async fn consume(_: PayloadContext) -> payload::Result<()> { Ok(()) }
/// # let _ = [
/// Payload::restarting("scheduler", schedule).scope(Scope::Service) // one in the whole service
/// # ,
/// Payload::restarting("consumer", consume).scope(Scope::Slot)      // one for each slot: share slot() of slots()
/// # ];
/// ```
mod scopes {}

/// ```no_run
/// # use payload::PayloadContext;
/// # struct History;
/// # impl History {
/// #     fn read(_: Option<&[u8]>) -> payload::Result<Self> { Ok(Self) }
/// #     async fn next(&mut self) {}
/// #     fn bytes(&self) -> &[u8] { b"" }
/// # }
/// async fn sample(context: PayloadContext) -> payload::Result<()> {
///     let mut history = History::read(context.kept().as_deref())?; // what the last one has kept, whoever it was
///     loop {
///         tokio::select! {
///             () = context.stopped() => return Ok(()),
///             () = history.next() => context.keep(history.bytes())?, // replaces what was kept before
///         }
///     }
/// }
/// ```
mod what_it_leaves_to_the_next_one {}

/// ```no_run
/// # async fn run(context: payload::Context) -> payload::Result<()> {
/// let messages = context.messages(); // on the contexts of `load`, of steps and of payloads
/// let mut news = messages.subscribe("news");
/// messages.publish("news", "it rains")?; // to all workers, this one included; never waits
/// let message = news.recv().await?; // a `Message`, or `Lagged` with how many were missed
/// # Ok(())
/// # }
/// ```
mod messages_between_workers {}

/// ```no_run
/// # use axum::extract::ws::{CloseFrame, Message, WebSocket};
/// # async fn answer(socket: &mut WebSocket, message: Message) -> Result<(), axum::Error> {
/// #     socket.send(message).await
/// # }
/// async fn chat(mut socket: WebSocket, drain: payload::Token) -> Result<(), axum::Error> {
///     loop {
///         tokio::select! {
///             message = socket.recv() => match message.transpose()? {
///                 Some(message) => answer(&mut socket, message).await?,
///                 None => return Ok(()),
///             },
///             () = drain.fired() => {
///                 let close = CloseFrame { code: 1001, reason: "the next worker has it".into() };
///                 return socket.send(Message::Close(Some(close))).await;
///             }
///         }
///     }
/// }
/// ```
mod websockets {}

/// ```no_run
/// # fn run(context: payload::Context) {
/// let _busy = context.busy(); // until it is dropped
/// # }
/// ```
mod idle_exit {}

/// ```no_run
/// # use std::path::{Path, PathBuf};
/// # use std::process::ExitCode;
/// # use payload::{App, Context};
/// # #[derive(serde::Deserialize)]
/// # struct Settings { words: PathBuf }
/// # struct Words;
/// # impl Words {
/// #     fn read(_: &Path) -> payload::Result<Self> { Ok(Self) }
/// # }
/// # fn routes(_: &'static Words) -> axum::Router { axum::Router::new() }
/// fn words(settings: &Settings) -> payload::Result<Words> {
///     Words::read(&settings.words)
/// }
///
/// async fn load(_: Context<Settings>, words: &'static Words) -> payload::Result<App> {
///     Ok(App::builder().build(routes(words)))
/// }
///
/// fn main() -> ExitCode {
///     payload::preload(words).main(load)
/// }
/// ```
mod preload {}
