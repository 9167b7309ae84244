//! The lease that one of several sinks takes to make a cut.

use sooner_delta::cut_lease::CutLease;

use crate::support::World;

#[tokio::test]
async fn one_sink_holds_the_lease_of_cuts_until_it_is_given_back_or_ends() {
    let world = World::new(1 << 20);
    let lake = world.lake();
    let [one, other] = ["one", "other"].map(|name| CutLease::new(&lake, name.to_owned()));
    assert!(!other.is_anothers(10).await.unwrap());
    assert!(one.take(10, 20).await.unwrap());
    assert!(one.take(15, 30).await.unwrap(), "it is held for longer");
    assert!(other.is_anothers(25).await.unwrap() && !one.is_anothers(25).await.unwrap());
    assert!(!other.take(25, 40).await.unwrap());
    other.give_back(25).await.unwrap();
    assert!(other.is_anothers(25).await.unwrap(), "nobody gives back what is not his");
    assert!(!other.is_anothers(30).await.unwrap(), "it has ended");
    assert!(other.take(30, 40).await.unwrap() && one.is_anothers(35).await.unwrap());
    other.give_back(35).await.unwrap();
    assert!(one.take(35, 40).await.unwrap());
}
