//! A command that has a terminal of the sandbox's own, seen from the caller's: the relay between them, and job control.
//!
//! To the caller's shell we are the job, and to the command's session the sandbox's first process is the shell. When the command is
//! stopped it tells us, and we stop as the command would have outside; when we are continued, so is the command.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::ending::{Deadline, Ending};
use super::relay::Relay;
use super::signals::{Received, Signals};
use super::terminal::{Hold, Terminal};
use super::wait_for_any;
use crate::sandbox::{Change, Order, Sandbox};

pub(super) struct OnTerminal<'a> {
    sandbox: &'a mut Sandbox,
    /// What is meant for the command.
    signals: &'a Signals,
    /// What is meant for us: a new size, and job control.
    job_control: Signals,
    terminal: Terminal,
    /// Whether the command is to have the terminal whenever we are in its foreground.
    wants_terminal: bool,
    hold: Option<Hold>,
    /// None once the caller's terminal is gone.
    relay: Option<Relay>,
}

impl<'a> OnTerminal<'a> {
    /// # Errors
    /// The kernel's, for want of descriptors or processes.
    pub(super) fn begin(
        sandbox: &'a mut Sandbox,
        signals: &'a Signals,
        terminal: Terminal,
        master: OwnedFd,
    ) -> Result<Self> {
        let relay = Some(Relay::new(master).context("cannot open the command's terminal")?);
        let job_control = Signals::block_job_control()?;
        // A command that is PID 1 has nobody who would tell us when it wants the terminal.
        let wants_terminal = terminal.is_to_be_had_at_once() || sandbox.is_command_pid_1();
        let mut session = Self { sandbox, signals, job_control, terminal, wants_terminal, hold: None, relay };
        session.set_size();
        if wants_terminal && (session.terminal.is_in_foreground() || session.sandbox.is_command_pid_1()) {
            session.hold = Hold::take(&session.terminal)?;
        }
        Ok(session)
    }

    /// Waits for the end of the command, until the deadline.
    ///
    /// # Errors
    /// The kernel's. The caller's terminal is as it was, in every case.
    pub(super) fn wait(mut self, deadline: Deadline) -> Result<Ending> {
        loop {
            let [changed, signalled, job_control, readable] = self.wait_for_events(deadline)?;
            self.carry(readable);
            if changed {
                match self.sandbox.change()? {
                    Change::Ended(status) => {
                        self.carry_the_rest()?;
                        return Ok(Ending::Exited(status));
                    }
                    Change::Stopped(signal) => self.stop_with_command(signal)?,
                }
            }
            if deadline.is_over() {
                self.sandbox.end();
                self.carry_the_rest()?;
                return Ok(Ending::TimedOut);
            }
            if signalled && let Some(received) = self.signals.take()? {
                self.pass_on(received)?;
            }
            if job_control && let Some(received) = self.job_control.take()? {
                match received.signal {
                    Signal::CONT => self.go_on()?,
                    Signal::TSTP => self.pass_on(received)?,
                    _ => self.set_size(),
                }
            }
        }
    }

    /// Whether there is something of the sandbox, a signal for the command, one for us, and something to read at the caller's
    /// terminal.
    fn wait_for_events(&self, deadline: Deadline) -> Result<[bool; 4]> {
        let (callers, own) = self.relay.as_ref().map_or((PollFlags::empty(), PollFlags::empty()), |relay| {
            (relay.callers_events(self.hold.is_some()), relay.own_events())
        });
        // A terminal of which nothing is wanted would still tell, again and again, that it is gone.
        let nothing = self.job_control.as_fd();
        let at = |descriptor, flags: PollFlags| {
            PollFd::from_borrowed_fd(if flags.is_empty() { nothing } else { descriptor }, flags)
        };
        let mut events = [
            PollFd::new(self.sandbox.changes(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.job_control.as_fd(), PollFlags::IN),
            at(self.terminal.as_fd(), callers),
            at(self.relay.as_ref().map_or(nothing, AsFd::as_fd), own),
        ];
        wait_for_any(&mut events, deadline)?;
        let [changed, signalled, job_control, terminal, _] = events.map(|event| event.revents());
        let readable =
            callers.contains(PollFlags::IN) && terminal.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        Ok([!changed.is_empty(), !signalled.is_empty(), !job_control.is_empty(), readable])
    }

    fn carry(&mut self, readable: bool) {
        let carried = self.relay.as_mut().map(|relay| relay.carry(self.terminal.as_fd(), readable));
        if carried.is_some_and(|carried| carried.is_err()) {
            self.hang_up();
        }
    }

    /// What the command wrote last is still on its way when it has ended. A signal ends the wait for a terminal that takes nothing.
    fn carry_the_rest(&mut self) -> Result<()> {
        let Some(relay) = &mut self.relay else { return Ok(()) };
        while let Ok(false) = relay.is_all_out(self.terminal.as_fd()) {
            let terminal = PollFd::from_borrowed_fd(self.terminal.as_fd(), PollFlags::OUT);
            let mut events = [terminal, PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            wait_for_any(&mut events, Deadline::after(None))?;
            let [_, signalled] = events;
            if !signalled.revents().is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The kernel hangs the command's terminal up when its master is closed.
    fn hang_up(&mut self) {
        self.relay = None;
        self.hold = None;
    }

    fn set_size(&self) {
        if let (Some(relay), Some(size)) = (&self.relay, self.terminal.size()) {
            relay.set_size(size);
        }
    }

    /// What the kernel sends, for a key or a hang-up, is meant for the whole job. The command is in another process group than ours.
    fn pass_on(&self, Received { signal, from_kernel }: Received) -> Result<()> {
        if from_kernel && !self.sandbox.is_command_pid_1() {
            self.sandbox.order(Order::Signal(signal))
        } else {
            self.sandbox.send_signal(signal)
        }
    }

    /// The command was stopped by this signal: so are we, but where it only wants the terminal and can have it.
    fn stop_with_command(&mut self, signal: i32) -> Result<()> {
        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::STOP);
        let wants_terminal = matches!(signal, Signal::TTIN | Signal::TTOU);
        self.wants_terminal |= wants_terminal;
        if wants_terminal && self.relay.is_some() && self.terminal.is_in_foreground() {
            return self.go_on();
        }
        self.hold = None;
        let was_stopped = self.job_control.stop(signal)?;
        if wants_terminal && !was_stopped {
            // There is no shell that could ever give it to us. What reads from it then gets an error outside, too.
            self.hang_up();
        }
        self.go_on()
    }

    /// We may have been stopped, and be now in the foreground or in the background; so is the command.
    fn go_on(&mut self) -> Result<()> {
        self.hold = self.hold.take().filter(Hold::is_still_ours);
        if self.sandbox.is_command_pid_1() {
            self.sandbox.send_signal(Signal::CONT)?;
        }
        if !self.wants_terminal || !self.terminal.is_in_foreground() {
            return self.order(Order::Background);
        }
        if self.hold.is_none() && self.relay.is_some() {
            self.hold = Hold::take(&self.terminal)?;
        }
        self.set_size();
        self.order(Order::Foreground)
    }

    fn order(&self, order: Order) -> Result<()> {
        if self.sandbox.is_command_pid_1() { Ok(()) } else { self.sandbox.order(order) }
    }
}
