//! Joins a running sandbox: the parent's half.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};

use super::child::{self, Descriptors};
use super::clone3::Child;
use super::message::Message;
use super::{Sandbox, cgroup, channel, drop_supplementary_groups, hear, id_map, refusal, standard_descriptors};
use crate::plan::{OwnCgroup, Plan};
use crate::sys;

/// Creates the processes that `plan`, one [for joining](Plan::for_joining), describes and returns when the command has been executed.
///
/// A helper enters the namespaces, and a sibling of it, which is our child too, carries out the rest inside: this process stays
/// outside in everything. The sandbox that is returned is only this command: when it is dropped, what others run there goes on.
///
/// # Errors
/// As of [`start`](super::start); and where the namespaces are none that maps its builder to the caller.
pub fn join(plan: &Plan) -> Result<Sandbox> {
    standard_descriptors::check()?;
    drop_supplementary_groups()?;
    // The kernel does not take a PID namespace down before the last process in it is reaped. Were that left to us, whoever ended
    // the session would have to wait for us, stopped as we may be.
    sys::let_kernel_reap_children().context("cannot choose how children are reaped")?;
    let (ours, childs) = channel()?;
    let cgroup = match &plan.cgroup {
        OwnCgroup::Existing(directory) => Some(cgroup::open(directory)?),
        _ => None,
    };
    let descriptors = Descriptors {
        channel: childs.as_raw_fd(),
        parents_channel: ours.as_raw_fd(),
        network: None,
        cgroup: cgroup.as_ref().map(AsRawFd::as_raw_fd),
    };
    let helper = child::spawn_joining(plan, descriptors).map_err(refusal::of_namespaces)?;
    let mut sandbox = Sandbox::of(helper, ours, plan);
    drop(childs);
    let mut is_inside = false;
    loop {
        match hear(&sandbox.channel)? {
            Some((Message::GoesOn(pid), Some(pidfd))) => {
                sandbox.reap()?;
                sandbox.first = Child { pid, pidfd };
                sandbox.reaped = false;
                // It waits for this: whatever namespaces we were led into, they have to be those of a sandbox of the caller's.
                id_map::check(pid, &plan.id_maps)?;
                sandbox.let_go_on()?;
                is_inside = true;
            }
            Some((Message::Terminal, master)) => sandbox.terminal = master,
            Some((Message::NoRoom, _)) => {}
            Some((Message::Started, _)) => return Ok(sandbox),
            Some((message, _)) if let Some(error) = refusal::of_start(plan, message) => return Err(error),
            // Without a word it was killed, perhaps with the command: `wait` tells.
            None if is_inside => return Ok(sandbox),
            _ => bail!("the sandbox ended while it was joined"),
        }
    }
}
