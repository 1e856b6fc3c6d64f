//! The service that runs out of the box.

use std::process::ExitCode;

fn main() -> ExitCode {
    payload::main(payload::vitals::load)
}
