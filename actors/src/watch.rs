//! A value that others wait for, who wake in the order in which they came. Tokio's own wakes them in
//! an order left to chance, with which no simulation plays the same again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A value, and the one end that changes it.
pub(crate) fn channel<T: Clone>(value: T) -> (Sender<T>, Receiver<T>) {
    let value = Mutex::new(Value { value, version: 0, closed: false });
    let shared = Arc::new(Shared { value, changed: Notify::new() });
    (Sender(Arc::clone(&shared)), Receiver { shared, seen: 0 })
}

/// The other end is gone, and the value stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

#[derive(Debug)]
struct Shared<T> {
    value: Mutex<Value<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Value<T> {
    value: T,
    version: u64,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Value<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the value. Dropped, it stays as it is.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

impl<T: Clone> Sender<T> {
    /// Puts a new value there.
    pub(crate) fn send_replace(&self, value: T) {
        self.send_modify(|old| *old = value);
    }

    /// Changes the value in place.
    pub(crate) fn send_modify(&self, change: impl FnOnce(&mut T)) {
        {
            let mut held = self.0.lock();
            change(&mut held.value);
            held.version += 1;
        }
        self.0.changed.notify_waiters();
    }

    /// The value now.
    pub(crate) fn get(&self) -> T {
        self.0.lock().value.clone()
    }

    /// For one more who waits.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.lock().version;
        Receiver { shared: Arc::clone(&self.0), seen }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_waiters();
    }
}

/// Waits for the value.
#[derive(Clone, Debug)]
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version that was looked at last.
    seen: u64,
}

impl<T: Clone> Receiver<T> {
    /// The value now.
    pub(crate) fn get(&self) -> T {
        self.shared.lock().value.clone()
    }

    /// The value now, which [`Receiver::changed`] takes for seen.
    pub(crate) fn get_and_see(&mut self) -> T {
        let held = self.shared.lock();
        self.seen = held.version;
        held.value.clone()
    }

    /// Waits until it is another than the one seen last.
    pub(crate) async fn changed(&mut self) -> Result<(), Closed> {
        let seen = self.seen;
        self.until(|held| held.version != seen).await.map(drop)
    }

    /// Waits until the value is as wanted.
    pub(crate) async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<T, Closed> {
        self.until(|held| wanted(&held.value)).await
    }

    async fn until(&mut self, mut wanted: impl FnMut(&Value<T>) -> bool) -> Result<T, Closed> {
        loop {
            // Listening begins before looking, so that nothing is missed in between.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let held = self.shared.lock();
                if wanted(&held) {
                    self.seen = held.version;
                    return Ok(held.value.clone());
                }
                if held.closed {
                    return Err(Closed);
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_wake_in_the_order_in_which_they_came() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
                tokio::spawn(async move {
                    let found = receiver.wait_for(|value| *value == 2).await;
                    woken.lock().unwrap().push(number);
                    found
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        sender.send_replace(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(woken.lock().unwrap().is_empty());
        sender.send_modify(|value| *value += 1);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(2));
        }
        assert_eq!(*woken.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_other_end_nobody_waits_for_ever() {
        let (sender, mut receiver) = channel(0);
        let mut late = sender.subscribe();
        sender.send_replace(1);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(late.get_and_see(), 1);
        drop(sender);
        assert_eq!(late.changed().await, Err(Closed));
        assert_eq!(receiver.wait_for(|value| *value == 2).await, Err(Closed));
        assert_eq!(receiver.wait_for(|value| *value == 1).await, Ok(1));
    }
}
