//! The zygote's watch over its children: each denied call is told to it by the kernel.
//!
//! The other end of a child's filter lives in the zygote. A call that is not on the list stops the child until
//! the zygote has answered; it notes the call on the status pipe *before* it answers, so whatever the child
//! says afterwards comes too late. The child is sent SIGSYS, whose handler names the author's line, and its call
//! fails. One that goes on all the same is killed.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::unistd::Pid;

/// A call that was not made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeniedCall {
    id: u64,
    /// Its number, as this machine's kernel counts.
    pub(crate) number: i32,
    /// Its last argument of three, which for a signal is which one.
    pub(crate) third: u64,
}

/// Where children leave the other ends of their filters.
pub(crate) struct Watch {
    zygote: OwnedFd,
    /// Inherited by children, who close it once they are sealed.
    pub(crate) child: OwnedFd,
}

impl Watch {
    pub(crate) fn new() -> nix::Result<Watch> {
        let (zygote, child) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok(Watch { zygote, child })
    }

    /// Takes what one child left; none if there is nothing of use.
    pub(crate) fn take(&self) -> Option<(Pid, OwnedFd)> {
        let mut bytes = [0; 4];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(
            self.zygote.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            flags,
        )
        .ok()?;
        let passed = message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
            _ => None,
        })?;
        // SAFETY: the kernel has just made this descriptor for this process; nothing else owns it.
        let notifications = unsafe { OwnedFd::from_raw_fd(passed) };
        Some((Pid::from_raw(i32::from_be_bytes(bytes)), notifications))
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.zygote.as_fd()
    }
}

/// In a child: leaves the other end of its filter with the zygote and closes both descriptors. Nothing of a
/// spec has run yet.
pub(crate) fn hand_over(watch: RawFd, child: Pid, notifications: OwnedFd) -> io::Result<()> {
    let pid = child.as_raw().to_be_bytes();
    let notifications = notifications.into_raw_fd();
    let descriptors = [notifications];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(
        watch,
        &[IoSlice::new(&pid)],
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    for done in [watch, notifications] {
        // SAFETY: the descriptor was made for this function alone. The library's own way to close one asks
        // the kernel more than the seal allows.
        unsafe { libc::close(done) };
    }
    Ok(())
}

/// Reads one denied call; none if the child is gone.
pub(crate) fn denied_call(notifications: &OwnedFd) -> Option<DeniedCall> {
    // SAFETY: an all-zero notification is valid, and the kernel demands one.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is a filter's other end and the pointer leads to a notification of this kernel
    // interface's size.
    let returned = unsafe {
        libc::ioctl(
            notifications.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut notification,
        )
    };
    (returned == 0).then_some(DeniedCall {
        id: notification.id,
        number: notification.data.nr,
        third: notification.data.args[2],
    })
}

/// Lets a denied call fail as if a signal had interrupted it, so that the interpreter looks for the signal.
pub(crate) fn interrupt(notifications: &OwnedFd, call: DeniedCall) {
    let mut answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: -libc::EINTR,
        flags: 0,
    };
    // SAFETY: as in `denied_call`, with an answer. An error means that the signal itself has ended the wait.
    unsafe {
        libc::ioctl(
            notifications.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut answer,
        )
    };
}
