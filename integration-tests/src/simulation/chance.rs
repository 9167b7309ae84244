//! What happens by chance in a simulated world: all of it follows from the seed.

use std::sync::{Arc, Mutex};

use rand::Rng;
use rand::rngs::StdRng;
use sooner_api::{Code, Error};

/// The random number generator that everything in a simulated world shares.
pub type Chance = Arc<Mutex<StdRng>>;

/// Draws a value from the world's random number generator.
pub fn draw<T>(chance: &Chance, pick: impl FnOnce(&mut StdRng) -> T) -> T {
    pick(&mut chance.lock().expect("one thread"))
}

/// Whether something happens that happens once in so many times.
pub fn happens(chance: &Chance, once_in: u32) -> bool {
    draw(chance, |random| random.random_ratio(1, once_in))
}

/// An error of this world that passes by itself.
pub fn passing(code: Code, what: &str) -> Error {
    Error::retry(code, what, "it is simulated", "nothing")
}
