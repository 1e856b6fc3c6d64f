//! A whole service: `cargo run --example hello`, then `curl http://127.0.0.1:8080/`.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::{Router, extract::State, routing::get};
use payload::{App, Context, Payload, PayloadContext};

#[derive(Clone, Default)]
struct Visits(Arc<AtomicU64>);

async fn hello(State(visits): State<Visits>) -> String {
    format!("hello, visitor {}\n", visits.0.fetch_add(1, Relaxed) + 1)
}

async fn report(payload: PayloadContext) -> payload::Result<()> {
    let visits = payload.state::<Visits>()?;
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    loop {
        tokio::select! {
            () = payload.stopped() => return Ok(()),
            _ = minutes.tick() => tracing::info!(visits = visits.0.load(Relaxed), "visits so far"),
        }
    }
}

async fn load(context: Context) -> payload::Result<App> {
    let slot = context.slot();
    let visits = Visits::default();
    Ok(App::builder()
        .state(visits.clone())
        .startup("greet", async move |_| {
            tracing::info!(slot, "this worker has its app");
            Ok(())
        })
        .teardown("total", async move |step| {
            let visits = step.state::<Visits>()?;
            tracing::info!(slot, visits = visits.0.load(Relaxed), "visits in all");
            Ok(())
        })
        .payload(Payload::restarting("report", report))
        .build(Router::new().route("/", get(hello)).with_state(visits)))
}

fn main() -> ExitCode {
    payload::main(load)
}
