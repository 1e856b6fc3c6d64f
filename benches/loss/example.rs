//! The loss meter as an example, only so that `cargo test` builds it. `loss run` is the service.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it prints what it measured"
)]

mod command;
mod disturbance;
mod meter;
mod server;

fn main() -> std::process::ExitCode {
    command::main()
}
