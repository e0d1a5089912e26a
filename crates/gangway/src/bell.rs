//! A value that many wait for to change, woken in the order in which they began to wait.
//!
//! tokio's watch wakes its listeners by chance, and whoever is first has the first turn at what all of them
//! want: in the simulator one seed would have two histories. Here the wait is fair, too. It holds one small
//! value, and decides nothing.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The side that changes the value.
#[derive(Debug, Default)]
pub(crate) struct Bell<T> {
    shared: Arc<Shared<T>>,
}

/// The side that listens.
#[derive(Debug)]
pub(crate) struct Listener<T> {
    shared: Arc<Shared<T>>,
    heard: u64,
}

#[derive(Debug, Default)]
struct Shared<T> {
    value: Mutex<(u64, T)>,
    rung: Notify,
}

impl<T> Shared<T> {
    fn value(&self) -> MutexGuard<'_, (u64, T)> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Bell<T> {
    pub(crate) fn new(value: T) -> Self {
        let shared = Shared { value: Mutex::new((0, value)), rung: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Listens for changes from now on.
    pub(crate) fn listen(&self) -> Listener<T> {
        let heard = self.shared.value().0;
        Listener { shared: self.shared.clone(), heard }
    }

    /// The value as it is now.
    pub(crate) fn now(&self) -> T {
        self.shared.value().1.clone()
    }

    /// Changes the value; where `by` says that it has not, nobody is woken.
    pub(crate) fn ring_if(&self, by: impl FnOnce(&mut T) -> bool) {
        {
            let mut value = self.shared.value();
            if !by(&mut value.1) {
                return;
            }
            value.0 += 1;
        }
        self.shared.rung.notify_waiters();
    }

    /// Changes the value.
    pub(crate) fn ring(&self, by: impl FnOnce(&mut T)) {
        self.ring_if(|value| {
            by(value);
            true
        });
    }
}

impl<T: Clone> Listener<T> {
    /// The value as it is now, which is no news any more.
    pub(crate) fn hear(&mut self) -> T {
        let value = self.shared.value();
        self.heard = value.0;
        value.1.clone()
    }

    /// Whether it has changed since it was last heard.
    #[cfg(test)]
    pub(crate) fn has_news(&self) -> bool {
        self.shared.value().0 != self.heard
    }

    /// Waits until it has changed since it was last heard.
    pub(crate) async fn changed(&mut self) {
        loop {
            // Begins to wait before it looks, so that no change falls between the two.
            let mut rung = pin!(self.shared.rung.notified());
            rung.as_mut().enable();
            let count = self.shared.value().0;
            if count != self.heard {
                self.heard = count;
                return;
            }
            rung.await;
        }
    }

    /// Waits until it is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&T) -> bool) {
        while !wanted(&self.hear()) {
            self.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn everybody_is_woken_once_and_in_order() {
        let bell = Bell::new(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let waiting = (0..50).map(|number| {
            let (mut listener, woken) = (bell.listen(), woken.clone());
            tokio::spawn(async move {
                listener.changed().await;
                woken.lock().unwrap().push(number);
                assert!(!listener.has_news());
            })
        });
        let waiting: Vec<_> = waiting.collect();
        tokio::task::yield_now().await;
        bell.ring_if(|_| false);
        tokio::task::yield_now().await;
        assert_eq!(*woken.lock().unwrap(), [0; 0]);
        bell.ring(|value| *value += 1);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_has_changed_before_is_heard_at_once() {
        let bell = Bell::new(0);
        let mut listener = bell.listen();
        bell.ring(|value| *value = 7);
        listener.changed().await;
        assert_eq!((listener.hear(), listener.has_news()), (7, false));
        listener.until(|value| *value == 7).await;
    }
}
