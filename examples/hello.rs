//! A whole service: `cargo run --example hello`, then `curl http://127.0.0.1:8080/`.

use axum::{Router, routing::get};
use payload::{App, Context, Payload, PayloadContext};

async fn tick(payload: PayloadContext) -> payload::Result<()> {
    let mut minutes = tokio::time::interval(std::time::Duration::from_secs(60));
    loop {
        tokio::select! {
            () = payload.stopped() => return Ok(()),
            _ = minutes.tick() => tracing::info!("the payload is alive"),
        }
    }
}

async fn load(_: Context) -> payload::Result<App> {
    Ok(App::builder()
        .startup("open", async |_| {
            tracing::info!("this worker's app starts up");
            Ok(())
        })
        .teardown("close", async |_| {
            tracing::info!("this worker's app is torn down");
            Ok(())
        })
        .payload(Payload::restarting("tick", tick))
        .build(Router::new().route("/", get(async || "hello\n"))))
}

fn main() -> std::process::ExitCode {
    payload::main(load)
}
