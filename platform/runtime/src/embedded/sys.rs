//! System calls the helper processes need and nix lacks.

use std::ffi::CString;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use nix::sys::stat::Mode;
use nix::unistd::setsid;

/// A descriptor that becomes readable when a process ends.
#[expect(unsafe_code, reason = "pidfd_open has no wrapper in nix")]
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and gives a new descriptor, or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A counter others can add to, read without blocking.
#[expect(unsafe_code, reason = "nix has eventfd only with a feature nobody else here needs")]
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and gives a new descriptor, or an error.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets SIGPIPE kill (as programs expect) or not (as Rust expects).
#[expect(unsafe_code, reason = "changing how a signal is handled")]
pub(crate) fn default_sigpipe(on: bool) {
    // SAFETY: neither handler runs code of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, if on { SigHandler::SigDfl } else { SigHandler::SigIgn }) };
}

/// Sets the size of a terminal.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn set_terminal_size(terminal: &impl AsRawFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a terminal the controlling one of this session.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn set_controlling_terminal(terminal: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: takes an integer.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the other end of a terminal; its lock is taken off first. Works in any mount namespace.
#[expect(unsafe_code, reason = "ioctls")]
pub(crate) fn open_terminal_peer(master: &impl AsRawFd) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: the kernel reads one int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes flags and gives a new descriptor, or an error.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a descriptor this process' standard input, output or error.
#[expect(unsafe_code, reason = "dup2 onto a standard descriptor")]
pub(crate) fn become_standard(fd: &impl AsRawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: standard descriptors are nobody's own.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Does not block from now on.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Leaves the parent's session and directory-making habits.
pub(crate) fn detach() {
    // Fails only for a session leader, which is what is wanted.
    let _ = setsid();
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
}

/// Sends bytes and descriptors as one message.
pub(crate) fn send_with_fds(socket: &impl AsRawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message of at most 64 KiB and its descriptors; no bytes at the end.
#[expect(unsafe_code, reason = "received descriptors are owned")]
pub(crate) fn receive_with_fds(socket: &impl AsRawFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 64 << 10];
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let count = message.bytes;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel made these descriptors for this process.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    buffer.truncate(count);
    Ok((buffer, fds))
}

/// Ends this process without running anything else.
#[expect(unsafe_code, reason = "a forked child must not run its parent's exit handlers")]
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// A string for the kernel; a NUL byte inside is refused.
pub(crate) fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "string contains a NUL byte"))
}

/// Lets the async runtime wait for a descriptor.
#[expect(unsafe_code, reason = "registering a descriptor promises that it stays open")]
pub(crate) fn watch_fd(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is returned, which deregisters it before closing it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(fd) }?)
}
