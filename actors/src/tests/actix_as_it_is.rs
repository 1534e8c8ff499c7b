//! What we rely on in actix, held by tests: the design stands on these.

use std::time::Duration;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use tokio::time::Instant;

use super::paused;
use crate::address::{Metered, SendError, address};
use crate::meter::Meter;

/// Fails in the way that the message asks for.
struct Fragile;

impl Actor for Fragile {
    type Context = Context<Self>;
}

enum Do {
    Answer,
    PanicInHandler,
    PanicInFuture,
    Sleep(Duration),
}

impl Message for Do {
    type Result = u8;
}

impl Handler<Metered<Do>> for Fragile {
    type Result = ResponseFuture<u8>;

    fn handle(&mut self, message: Metered<Do>, _: &mut Self::Context) -> Self::Result {
        let (message, handling) = message.open();
        match message {
            Do::PanicInHandler => panic!("on purpose, in the handler"),
            Do::Answer => Box::pin(async move {
                drop(handling);
                1
            }),
            Do::PanicInFuture => Box::pin(async move {
                let _kept = handling;
                panic!("on purpose, in the future")
            }),
            Do::Sleep(long) => Box::pin(async move {
                tokio::time::sleep(long).await;
                drop(handling);
                2
            }),
        }
    }
}

#[test]
fn a_panic_in_a_handler_kills_the_actor_and_an_address_leads_to_its_successor() {
    paused(async {
        let (reached_at, binding) = address(Meter::new("fragile"), 2);
        let first = Fragile.start();
        binding.bind(first.clone());
        assert_eq!(reached_at.send(Do::Answer).await, Ok(1));
        assert_eq!(reached_at.send(Do::PanicInHandler).await, Err(SendError::Gone("fragile")));
        assert!(!first.connected());
        let waiting = reached_at.clone();
        let sent = actix::spawn(async move { waiting.send(Do::Answer).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!sent.is_finished(), "a message waits while the actor is away");
        binding.bind(Fragile.start());
        assert_eq!(sent.await.unwrap(), Ok(1));
        assert_eq!(reached_at.meter().read().depth, 0, "no message is left counted");
    });
}

#[test]
fn a_panic_in_a_response_future_leaves_the_actor_alive() {
    paused(async {
        let (reached_at, binding) = address(Meter::new("fragile"), 2);
        binding.bind(Fragile.start());
        assert_eq!(reached_at.send(Do::PanicInFuture).await, Err(SendError::Gone("fragile")));
        assert_eq!(reached_at.send(Do::Answer).await, Ok(1), "Gone does not prove a death");
    });
}

#[test]
fn hours_pass_in_no_time_and_futures_do_not_block_the_mailbox() {
    paused(async {
        let (reached_at, binding) = address(Meter::new("fragile"), 2);
        binding.bind(Fragile.start());
        let begin = Instant::now();
        let hour = Duration::from_secs(3600);
        let slow = reached_at.send(Do::Sleep(hour));
        let fast = async {
            let answer = reached_at.send(Do::Answer).await;
            (answer, begin.elapsed())
        };
        let (slow, (fast, fast_after)) = tokio::join!(slow, fast);
        assert_eq!((slow, fast), (Ok(2), Ok(1)));
        assert!(fast_after < Duration::from_secs(1), "{fast_after:?}");
        assert!(begin.elapsed() >= hour);
        assert!(reached_at.meter().read().handle.max >= hour.mul_f64(0.98));
    });
}

#[test]
fn a_full_mailbox_says_no_and_the_refusal_is_counted() {
    paused(async {
        let (reached_at, binding) = address(Meter::new("fragile"), 2);
        binding.bind(Fragile.start());
        let told: Vec<_> = (0..20).map(|_| reached_at.try_send(Do::Answer)).collect();
        let refused = told.iter().filter(|told| **told == Err(SendError::Full("fragile"))).count();
        assert_eq!(refused, 18, "two places");
        assert_eq!(reached_at.meter().read().rejected, 18);
        assert_eq!(reached_at.send(Do::Answer).await, Ok(1), "and there is room again");
        assert_eq!(reached_at.meter().read().high_water, 2);
    });
}

#[test]
fn a_sender_waits_for_room_in_a_full_mailbox_and_is_answered() {
    paused(async {
        let (reached_at, binding) = address(Meter::new("fragile"), 2);
        binding.bind(Fragile.start());
        let all = (0..100).map(|_| reached_at.send(Do::Answer));
        let answers = futures_util::future::join_all(all).await;
        assert!(answers.iter().all(|answer| *answer == Ok(1)), "{answers:?}");
    });
}
