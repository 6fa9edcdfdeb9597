// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process that stands between a disk and its writers needs.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc::{_exit, c_ulong, prctl};
use nix::unistd::{ForkResult, fork, pipe2, read, write};

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h`.
const IO_FLUSHER: i32 = 57;

/// Tells the kernel that this process serves I/O: memory it allocates for us is never got by writing to a
/// disk, which may be the suspended one. (Linux 5.6)
pub fn serve_io() -> io::Result<()> {
    let on: c_ulong = 1;
    let none: c_ulong = 0;
    // SAFETY: the call takes integers alone.
    Errno::result(unsafe { prctl(IO_FLUSHER, on, none, none, none) })?;
    Ok(())
}

/// Does `work` in a child, and comes back once that is done, or has ended. A thread of the child's that waits for a disk
/// which does not answer keeps the child, and not who called. A process that has further threads does it itself: a child
/// would have this one alone.
pub fn apart(work: impl FnOnce()) {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return work();
    }
    // What the child starts has no part in the pipe, so that it ends with the child.
    let Ok((done, tell)) = pipe2(OFlag::O_CLOEXEC) else { return work() };
    // SAFETY: there is no other thread, so nothing that the child needs is held by one.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(done);
            let _told = catch_unwind(AssertUnwindSafe(work));
            let _gone = write(&tell, b"x");
            // SAFETY: nothing of this process is of use any more; what others have to know was written.
            unsafe { _exit(0) }
        }
        Ok(ForkResult::Parent { .. }) => {
            drop(tell);
            while read(&done, &mut [0]) == Err(Errno::EINTR) {}
        }
        Err(_) => work(),
    }
}

/// Lets the program that `command` starts have these descriptors, under the same numbers.
pub fn hand_over(command: &mut Command, descriptors: Vec<RawFd>) {
    let open = move || {
        for descriptor in &descriptors {
            // SAFETY: the parent keeps them open until the child was started, and the borrow ends here.
            let descriptor = unsafe { BorrowedFd::borrow_raw(*descriptor) };
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure calls fcntl alone, which is async-signal-safe, and allocates
    // nothing.
    unsafe { command.pre_exec(open) };
}

/// Takes over a descriptor that [`hand_over`] left open; an error where there is none. It is closed in
/// whatever this process starts.
pub fn taken_over(descriptor: RawFd) -> io::Result<OwnedFd> {
    if descriptor <= 2 {
        return Err(io::Error::from(Errno::EBADF));
    }
    // SAFETY: F_SETFD fails for what is not open, and the borrow ends here.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and was opened for this process by the one that started it, which told its number
    // to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
