//! A RateAccountant that nobody restarts, with what callers beside it need: for programs that bring their own
//! runs, such as a benchmark.

use std::sync::Arc;

use actix::Actor;
use steadfast_core::time::Clock;
use steadfast_store::Ledger;
use tokio::time::Instant;

use crate::Settings;
use crate::accountant::{Depart, Fleetwide, Halt, RateAccountant};
use crate::address::{Address, Binding, address};
use crate::calls::{Caller, Patience};
use crate::dice::Dice;
use crate::held::Held;
use crate::meter::Meter;
use crate::stop::{Reason, Stop};
use crate::supervisor::{Lifeline, Supervisor};

/// Who a program's process is to others, and by what it goes.
pub struct Process {
    /// Its name at the ledger.
    pub me: String,
    /// Over which it shares its budgets.
    pub ledger: Arc<dyn Ledger>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its chance.
    pub dice: Dice,
}

/// See the module. Dropped, the process is dead: what it kept is left to the end of its lease.
pub(crate) struct Alone {
    pub accountant: Address<RateAccountant>,
    held: Held,
    stop: Stop,
    nobody: Address<Supervisor>,
    _binding: Binding<RateAccountant>,
}

impl Alone {
    /// Starts it on the current arbiter, and the way to it for a caller. Nothing is sent before
    /// [`Alone::leased_until`].
    pub fn start(settings: &Settings, process: Process) -> (Alone, Caller) {
        let Process { me, ledger, clock, dice } = process;
        let capacity = settings.actors.mailbox;
        // Without a binding: the death of a child is told to nobody.
        let (nobody, _) = address::<Supervisor>(Meter::new("supervisor"), capacity);
        let (accountant, binding) = address::<RateAccountant>(Meter::new("rate_accountant"), capacity);
        let lifeline = Lifeline::new(0, nobody.clone());
        let actor = RateAccountant::new(settings, Arc::clone(&clock), accountant.clone(), lifeline);
        binding.bind(actor.sharing(Fleetwide { ledger, me }).drawing(dice.clone()).start());
        let park_after = settings.job.park_after;
        let caller = Caller { accountant: accountant.clone(), clock, dice, park_after };
        let held = Held::new();
        let stop = Stop::new(held.leased());
        (Alone { accountant, held, stop, nobody, _binding: binding }, caller)
    }

    /// Of the caller beside it.
    pub fn lifeline(&self) -> Lifeline {
        Lifeline::new(1, self.nobody.clone())
    }

    /// How its calls hear that they are to stop.
    pub fn patience(&self) -> Patience {
        self.stop.patience()
    }

    /// The process's leases are surely its own until then: calls are sent.
    pub fn leased_until(&self, until: Instant) {
        self.held.leased_until(until);
    }

    /// A drain: requests that are out end, nothing new begins.
    pub fn stop_softly(&self) {
        self.stop.softly();
    }

    /// Drops even what is out.
    pub fn stop_now(&self) {
        self.stop.now(Reason::Drain);
    }

    /// The process leaves: another may keep the budget.
    pub async fn depart(&self) {
        if let Err(error) = self.accountant.send(Depart).await {
            tracing::debug!(%error, "the accountant was gone before");
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.accountant.tell_from_drop(Halt);
    }
}
