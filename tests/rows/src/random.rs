//! Random numbers that are the same on every run with one seed, on every machine and for good: fixtures aside, a
//! seed is all there is to repeat a finding. Hence no library, whose next version may draw differently.

/// SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for the `n`-th part of a run, so that a part can be repeated without those before it.
    pub fn part(seed: u64, n: u64) -> Self {
        let mut random = Self(seed ^ n.wrapping_mul(0xd134_2543_de82_ef95));
        Self(random.draw() ^ n)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn byte(&mut self) -> u8 {
        self.draw() as u8
    }

    pub fn u16(&mut self) -> u16 {
        self.draw() as u16
    }

    pub fn u32(&mut self) -> u32 {
        self.draw() as u32
    }

    /// A number below `bound`, which must not be 0. (Slightly uneven for large bounds, which does not matter here.)
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    /// A number from `low` up to and with `high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True `n` times of a hundred.
    pub fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// One of the choices, each as likely as its weight says.
    pub fn weighted<T: Clone>(&mut self, choices: &[(usize, T)]) -> T {
        let mut left = self.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in choices {
            match left.checked_sub(*weight) {
                None => return choice.clone(),
                Some(rest) => left = rest,
            }
        }
        unreachable!("the weights were summed")
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.draw().to_le_bytes()).take(length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence_comes_out() {
        // Of the reference implementation, for seed 1234567.
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(expected.map(|_| random.draw()), expected);
    }

    #[test]
    fn choices_follow_their_weights() {
        let mut random = Random::new(1);
        let mut drawn = [0; 3];
        for _ in 0..10_000 {
            drawn[random.weighted(&[(70, 0), (0, 1), (30, 2)])] += 1;
        }
        assert!((6_800..7_200).contains(&drawn[0]) && drawn[1] == 0, "{drawn:?}");
    }
}
