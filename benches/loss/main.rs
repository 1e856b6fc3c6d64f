//! What clients lose while a server is reloaded, restarted or killed: `cargo bench --bench loss -- --help`.
//!
//! - [`meter`]: the clients, and what they count
//! - [`server`]: payload, nginx, Gunicorn
//! - [`disturbance`]: what is done to them

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
