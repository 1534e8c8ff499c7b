//! The only way to reach an actor: an address that survives its restarts, bounds its mailbox and
//! meters every message.
//!
//! An actor handles [`Metered<M>`], never a bare `M`, so that no message escapes: there is no other
//! way to make a `Metered` than to send through an [`Address`]. The bound is the address's own,
//! since actix lets every clone of an `Addr` put one message beyond its capacity.

use std::sync::Arc;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, MailboxError, Message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::meter::{Handling, InMailbox, Meter};
use crate::watch;

/// A message in a mailbox. Handlers open it and keep the [`Handling`] until their work has ended.
pub struct Metered<M> {
    message: M,
    in_mailbox: InMailbox,
    /// Its place in the mailbox; none for what is told from a drop.
    place: Option<OwnedSemaphorePermit>,
}

impl<M: Message> Message for Metered<M> {
    type Result = M::Result;
}

impl<M> Metered<M> {
    /// Takes the message up; its place in the mailbox is free.
    pub fn open(self) -> (M, Handling) {
        drop(self.place);
        (self.message, self.in_mailbox.open())
    }
}

/// Why a message was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The actor died, or the work on the message did. Whether it took effect is not known.
    #[error("{0} died with the message")]
    Gone(&'static str),
    /// The mailbox is full.
    #[error("the mailbox of {0} is full")]
    Full(&'static str),
    /// The actor has ended for good.
    #[error("{0} has ended")]
    Ended(&'static str),
}

/// Where an actor is reached. Cheap to clone; all clones follow its restarts.
pub struct Address<A: Actor> {
    meter: Arc<Meter>,
    places: Arc<Semaphore>,
    current: watch::Receiver<Option<Addr<A>>>,
}

impl<A: Actor> Clone for Address<A> {
    fn clone(&self) -> Self {
        Address {
            meter: Arc::clone(&self.meter),
            places: Arc::clone(&self.places),
            current: self.current.clone(),
        }
    }
}

/// The other end of an [`Address`]: kept by whoever starts the actor.
pub struct Binding<A: Actor> {
    current: watch::Sender<Option<Addr<A>>>,
}

/// An address without an actor yet, and its binding. Messages wait until one is bound; at most
/// `capacity` of them are in the mailbox at once.
pub fn address<A: Actor>(meter: Arc<Meter>, capacity: usize) -> (Address<A>, Binding<A>) {
    let (sender, receiver) = watch::channel(None);
    let places = Arc::new(Semaphore::new(capacity.clamp(1, Semaphore::MAX_PERMITS)));
    (Address { meter, places, current: receiver }, Binding { current: sender })
}

impl<A: Actor> Binding<A> {
    /// All clones of the address lead to this incarnation from now on.
    pub fn bind(&self, addr: Addr<A>) {
        self.current.send_replace(Some(addr));
    }
}

impl<A: Actor> Address<A> {
    /// The meters of this mailbox.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Sends and waits for the answer. Waits while the actor is being restarted or its mailbox is
    /// full; a message that a dead actor had taken is not sent again: [`SendError::Gone`].
    pub async fn send<M>(&self, message: M) -> Result<M::Result, SendError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Metered<M>>,
        A::Context: ToEnvelope<A, Metered<M>>,
    {
        let name = self.meter.name();
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| SendError::Ended(name))?;
        let addr = self.live().await?;
        let metered = Metered { message, in_mailbox: InMailbox::enter(&self.meter), place: Some(place) };
        #[expect(clippy::disallowed_methods, reason = "the one place: every message passes here")]
        let answer = addr.send(metered).await;
        answer.map_err(|error| match error {
            MailboxError::Closed | MailboxError::Timeout => SendError::Gone(name),
        })
    }

    /// Like [`Address::send`], but does not wait for an actor that is away: for the end of the
    /// process, when nobody starts it again.
    pub async fn send_if_alive<M>(&self, message: M) -> Result<M::Result, SendError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Metered<M>>,
        A::Context: ToEnvelope<A, Metered<M>>,
    {
        let alive = self.current.get().as_ref().is_some_and(Addr::connected);
        if alive { self.send(message).await } else { Err(SendError::Gone(self.meter.name())) }
    }

    /// Sends without waiting for an answer; told no when the mailbox is full or the actor away.
    pub fn try_send<M>(&self, message: M) -> Result<(), SendError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Metered<M>>,
        A::Context: ToEnvelope<A, Metered<M>>,
    {
        let name = self.meter.name();
        let addr = self.current.get().ok_or(SendError::Gone(name))?;
        let full = || {
            self.meter.rejected();
            SendError::Full(name)
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| full())?;
        let metered = Metered { message, in_mailbox: InMailbox::enter(&self.meter), place: Some(place) };
        addr.try_send(metered).map_err(|error| match error {
            actix::prelude::SendError::Full(_) => full(),
            actix::prelude::SendError::Closed(_) => SendError::Gone(name),
        })
    }

    /// Tells the actor something that must not be lost to a full mailbox and cannot wait, since it
    /// is told from a `drop`. Does nothing if the actor is away.
    ///
    /// Only for messages whose number is bounded by what they speak of: one for each permit, child
    /// or run that exists.
    pub(crate) fn tell_from_drop<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Metered<M>>,
        A::Context: ToEnvelope<A, Metered<M>>,
    {
        let Some(addr) = self.current.get() else { return };
        let metered = Metered { message, in_mailbox: InMailbox::enter(&self.meter), place: None };
        #[expect(clippy::disallowed_methods, reason = "bounded by the callers, see above")]
        addr.do_send(metered);
    }

    /// The living incarnation, waiting for it while there is none.
    async fn live(&self) -> Result<Addr<A>, SendError> {
        let mut current = self.current.clone();
        let living = |addr: &Option<Addr<A>>| addr.as_ref().is_some_and(Addr::connected);
        let addr = current.wait_for(living).await.map_err(|_| SendError::Ended(self.meter.name()))?;
        addr.ok_or(SendError::Gone(self.meter.name()))
    }
}
