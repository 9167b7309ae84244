//! A memory budget that several tasks share: who gets room, who waits, and what comes back.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use sooner_api::{MemoryBudget, Reservation};

const KIB: usize = 1024;

/// Asks a future once; nobody is told when it could go on.
fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn bytes(reserved: Poll<Reservation>) -> Option<usize> {
    match reserved {
        Poll::Ready(reservation) => Some(reservation.bytes()),
        Poll::Pending => None,
    }
}

#[test]
fn room_is_counted_in_whole_kibibytes() {
    let budget = MemoryBudget::new(10 * KIB);
    let held = [(0, 0), (1, KIB), (KIB, KIB), (KIB + 1, 2 * KIB)].map(|(asked, expected)| {
        let reservation = budget.try_reserve(asked).unwrap();
        assert_eq!(reservation.bytes(), expected, "{asked}");
        reservation
    });
    assert_eq!(budget.free_bytes(), 6 * KIB);
    drop(held);
    assert_eq!(budget.free_bytes(), 10 * KIB);
}

#[test]
fn a_budget_of_almost_nothing_lets_one_at_a_time_pass() {
    let budget = MemoryBudget::new(0);
    let first = budget.try_reserve(1 << 30).unwrap();
    assert_eq!(first.bytes(), KIB);
    assert!(budget.try_reserve(1).is_none());
    drop(first);
    assert!(budget.try_reserve(1).is_some());
}

#[test]
fn clones_share_one_bound() {
    let budget = MemoryBudget::new(4 * KIB);
    let held = budget.clone().try_reserve(3 * KIB).unwrap();
    assert_eq!(budget.free_bytes(), KIB);
    drop(held);
    assert_eq!(budget.clone().free_bytes(), 4 * KIB);
}

#[test]
fn a_share_outlives_what_it_was_split_from() {
    let budget = MemoryBudget::new(8 * KIB);
    let mut whole = budget.try_reserve(6 * KIB).unwrap();
    let share = whole.split(2 * KIB);
    assert_eq!(budget.free_bytes(), 2 * KIB, "splitting takes nothing more");
    drop(whole);
    assert_eq!(budget.free_bytes(), 6 * KIB);
    drop(share);
    assert_eq!(budget.free_bytes(), 8 * KIB);
}

#[test]
fn nothing_can_be_split_from_nothing() {
    assert_eq!(Reservation::default().split(KIB).bytes(), 0);
    let budget = MemoryBudget::new(8 * KIB);
    let mut held = budget.try_reserve(KIB).unwrap();
    assert_eq!(held.split(0).bytes(), 0);
    assert_eq!((held.split(KIB).bytes(), held.split(1).bytes()), (KIB, 0));
}

#[tokio::test]
async fn who_asks_for_much_is_not_overtaken_by_who_asks_for_little() {
    let budget = MemoryBudget::new(10 * KIB);
    let held = budget.reserve(4 * KIB).await;
    let mut much = pin!(budget.reserve(8 * KIB));
    assert!(poll(much.as_mut()).is_pending());
    let mut little = pin!(budget.reserve(KIB));
    assert!(poll(little.as_mut()).is_pending(), "there would be room, but somebody waits for it");
    assert!(budget.try_reserve(KIB).is_none());
    drop(held);
    let Poll::Ready(first) = poll(much.as_mut()) else { panic!("there is room for the first") };
    assert_eq!(first.bytes(), 8 * KIB);
    assert_eq!(bytes(poll(little.as_mut())), Some(KIB));
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_the_room_to_others() {
    let budget = MemoryBudget::new(10 * KIB);
    let held = budget.reserve(4 * KIB).await;
    let mut much = Box::pin(budget.reserve(8 * KIB));
    assert!(poll(much.as_mut()).is_pending());
    drop(much);
    assert_eq!(budget.free_bytes(), 6 * KIB);
    assert_eq!(budget.try_reserve(6 * KIB).map(|reservation| reservation.bytes()), Some(6 * KIB));
    drop(held);
    assert_eq!(budget.free_bytes(), 10 * KIB);
}

#[tokio::test]
async fn holders_are_pressed_only_when_somebody_waits() {
    let budget = MemoryBudget::new(4 * KIB);
    let mut pressed = pin!(budget.pressed());
    assert!(poll(pressed.as_mut()).is_pending());
    let held = budget.reserve(3 * KIB).await;
    assert!(budget.try_reserve(2 * KIB).is_none());
    assert!(poll(pressed.as_mut()).is_pending(), "who only tries does not press");
    let mut waiting = pin!(budget.reserve(2 * KIB));
    assert!(poll(waiting.as_mut()).is_pending());
    assert!(poll(pressed.as_mut()).is_ready());
    drop(held);
    assert_eq!(bytes(poll(waiting.as_mut())), Some(2 * KIB));
}

#[tokio::test]
async fn every_holder_is_pressed() {
    let budget = MemoryBudget::new(KIB);
    let held = budget.reserve(KIB).await;
    let mut first = pin!(budget.pressed());
    let mut second = pin!(budget.pressed());
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    let mut waiting = pin!(budget.reserve(1));
    assert!(poll(waiting.as_mut()).is_pending());
    assert!(poll(first.as_mut()).is_ready() && poll(second.as_mut()).is_ready());
    drop(held);
}

#[tokio::test]
async fn an_empty_reservation_waits_for_nobody() {
    let budget = MemoryBudget::new(KIB);
    let _held = budget.reserve(KIB).await;
    assert_eq!(budget.reserve(0).await.bytes(), 0);
}
