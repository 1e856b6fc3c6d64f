//! Replacing this process's program, in the same process, with some of its descriptors kept open.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, FdFlag, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::uio::pread;

/// A program by its open file: it stays what it is when the path leads elsewhere or nowhere.
#[derive(Debug)]
pub(crate) struct Executable(OwnedFd);

impl Executable {
    /// The program at `path` now.
    ///
    /// # Errors
    /// What open(2) says.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Only the place, open(2): a program that may be executed need not be readable, and a FIFO would wait.
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        Ok(Self(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    /// The program that this process runs, even when its file was removed or replaced.
    ///
    /// # Errors
    /// /proc is not there.
    pub(crate) fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/exe"))
    }

    /// A child that runs this program with descriptors to inherit, which dies with this process. Its standard input
    /// and output lead nowhere.
    ///
    /// # Errors
    /// No process, or execve(2) refused the file: it is no program, or one for another machine.
    pub(crate) fn spawn(
        &self,
        arguments: &[OsString],
        variables: &[(&str, OsString)],
        keep: &[BorrowedFd<'_>],
        stderr: OwnedFd,
    ) -> io::Result<u32> {
        let line = Line::new(arguments, variables)?;
        let program = self.0.as_raw_fd();
        let keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
        // The path is for the error only: the child executes in the hook. What std would do after it is execvp(3),
        // which gives whatever is no program to a shell.
        let mut command = Command::new("/proc/self/exe");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        // SAFETY: the closure runs in the child between fork and exec. It makes system calls, and allocates, which
        // is sound where the parent has one thread, and with the allocator of glibc and of musl also elsewhere.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                for fd in &keep {
                    set_close_on_exec(*fd, false)?;
                }
                Err(line.execute(BorrowedFd::borrow_raw(program)))
            });
        }
        // Dropping the handle neither waits nor kills: the arbiter reaps every child it has.
        command.spawn().map(|child| child.id())
    }
}

/// Goes over to this program: same process, same parent, same children, same blocked signals. What is in `keep`
/// stays open there under the same number. Returns only when it failed, and then nothing has changed. Needs no
/// descriptor of its own.
pub(crate) fn replace(
    program: BorrowedFd<'_>,
    arguments: &[OsString],
    variables: &[(&str, OsString)],
    keep: &[BorrowedFd<'_>],
) -> io::Error {
    let line = match Line::new(arguments, variables) {
        Ok(line) => line,
        Err(error) => return error,
    };
    let opened = keep
        .iter()
        .try_for_each(|fd| set_close_on_exec(fd.as_raw_fd(), false));
    let error = match opened {
        Err(error) => error,
        Ok(()) => line.execute(program),
    };
    for fd in keep {
        // It was just changed by the same call, so this works too.
        let _ = set_close_on_exec(fd.as_raw_fd(), true);
    }
    error
}

/// What execve(2) takes beside the program.
struct Line {
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Line {
    /// This process's environment, with `variables` in it.
    fn new(arguments: &[OsString], variables: &[(&str, OsString)]) -> io::Result<Self> {
        let zero = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
        let own = std::env::vars_os()
            .filter(|(name, _)| variables.iter().all(|(other, _)| name != OsStr::new(other)));
        let new = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), value.clone()));
        let environment = own
            .chain(new)
            .map(|(name, value)| zero(&[name.as_bytes(), b"=", value.as_bytes()].concat()));
        Ok(Self {
            arguments: arguments
                .iter()
                .map(|argument| zero(argument.as_bytes()))
                .collect::<io::Result<_>>()?,
            environment: environment.collect::<io::Result<_>>()?,
        })
    }

    fn execute(&self, program: BorrowedFd<'_>) -> io::Error {
        let (arguments, environment) = (&self.arguments, &self.environment);
        let flags = AtFlags::AT_EMPTY_PATH;
        match nix::unistd::execveat(program, c"", arguments, environment, flags) {
            Err(errno) => errno.into(),
            Ok(never) => match never {},
        }
    }
}

impl From<OwnedFd> for Executable {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Executable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file in memory with this content, which nobody can change any more.
///
/// # Errors
/// No memory, no descriptors.
pub(crate) fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    io::Write::write_all(&mut file, content)?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// The content of a [`sealed`] file, from its beginning. Needs no descriptor of its own.
///
/// # Errors
/// What pread(2) says.
pub(crate) fn read_sealed(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let length = nix::sys::stat::fstat(fd)?.st_size;
    let mut content = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut done = 0;
    // By position: the offset is shared with whoever holds another copy.
    while done < content.len() {
        let at = i64::try_from(done).map_err(io::Error::other)?;
        match pread(fd, &mut content[done..], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(content)
}

fn set_close_on_exec(fd: RawFd, on: bool) -> io::Result<()> {
    // SAFETY: the callers borrow the descriptor for the call; the number is used for nothing else.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    let mut wanted = flags;
    wanted.set(FdFlag::FD_CLOEXEC, on);
    fcntl(fd, FcntlArg::F_SETFD(wanted))?;
    Ok(())
}

/// A pipe, both ends close-on-exec, the reading one non-blocking.
///
/// # Errors
/// No descriptors.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let flags = OFlag::from_bits_retain(fcntl(&read, FcntlArg::F_GETFL)?);
    fcntl(&read, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_sealed_file_is_read_again_and_cannot_be_changed() {
        let fd = sealed("test", b"content").unwrap();
        assert_eq!(read_sealed(fd.as_fd()).unwrap(), b"content");
        assert_eq!(read_sealed(fd.as_fd()).unwrap(), b"content");
        let error = nix::unistd::write(&fd, b"x").unwrap_err();
        assert_eq!(error, Errno::EPERM);
    }

    #[test]
    fn a_spawned_program_inherits_what_it_should_and_nothing_else() {
        let shell = Executable::open(Path::new("/bin/sh")).unwrap();
        let (mut verdict, verdict_end) = pipe().map(|(a, b)| (File::from(a), b)).unwrap();
        let (secret, _other) = pipe().unwrap();
        let (_stderr, stderr_end) = pipe().unwrap();
        let script = format!(
            "echo \"$0 $WORD\" >&{}; [ -e /proc/self/fd/{} ] && echo leaked >&{0}",
            verdict_end.as_raw_fd(),
            secret.as_raw_fd()
        );
        let arguments = ["name", "-c", &script, "zero"].map(OsString::from);
        let variables = [("WORD", OsString::from("value"))];
        let pid = shell
            .spawn(&arguments, &variables, &[verdict_end.as_fd()], stderr_end)
            .unwrap();
        drop(verdict_end);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::wait::waitpid(pid, None).unwrap();
        let mut said = String::new();
        verdict.read_to_string(&mut said).unwrap();
        assert_eq!(said, "zero value\n");
    }

    #[test]
    fn what_is_no_program_is_not_given_to_a_shell() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        // Written by a process of its own: a child of another test could have it open still, which is ETXTBSY.
        let write = "echo exit 0 >\"$1\" && chmod 755 \"$1\"";
        let mut shell = std::process::Command::new("sh");
        let written = shell.args(["-c", write, "sh"]).arg(&path).status().unwrap();
        assert!(written.success());
        let (_stderr, stderr_end) = pipe().unwrap();
        let program = Executable::open(&path).unwrap();
        let error = program.spawn(&["x".into()], &[], &[], stderr_end);
        let error = error.unwrap_err().raw_os_error();
        assert_eq!(error, Some(Errno::ENOEXEC as i32));
    }

    #[test]
    fn what_is_no_program_is_refused_and_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let executable = Executable::open(file.path()).unwrap();
        let (read, _write) = pipe().unwrap();
        let error = replace(executable.as_fd(), &["x".into()], &[], &[read.as_fd()]);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let flags = FdFlag::from_bits_retain(fcntl(&read, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
}
