//! Becomes the program in its arguments, with the descriptors that come over standard input in one message: passed
//! as sd_listen_fds(3) says. A process of its own, so that no other child of a test can inherit them.

#[allow(
    dead_code,
    unsafe_code,
    reason = "the crate's own, of which this uses a part"
)]
#[path = "../../src/sys/passing.rs"]
mod passing;

use std::env::args_os;
use std::error::Error;
use std::io::{self, stdin};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio, id};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const FIRST: i32 = 400;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = args_os().skip(1);
    let program = arguments.next().ok_or("no program")?;
    let stdin = stdin();
    poll(
        &mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    )?;
    let message = passing::receive_up_to::<253>(stdin.as_fd(), &mut [0; 8])?;
    // Beyond whatever this process has inherited: the numbers must be in a row.
    for (fd, number) in message.fds.iter().zip(FIRST..) {
        if fcntl(fd, FcntlArg::F_DUPFD(number))? != number {
            return Err(io::Error::other(format!("{number} is taken")).into());
        }
    }
    let error = Command::new(program)
        .args(arguments)
        .env("LISTEN_PID", id().to_string())
        .env("LISTEN_FDS_FIRST_FD", FIRST.to_string())
        .env("LISTEN_FDS", message.fds.len().to_string())
        .stdin(Stdio::null())
        .exec();
    Err(error.into())
}
