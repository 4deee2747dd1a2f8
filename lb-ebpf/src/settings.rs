//! Load-time constants. The loader overrides them by the names in [`lb_common::settings`]; the map behind them
//! is frozen before verification, so the verifier knows their values and removes what they switch off.
//!
//! What stays of a switch that is on is its reading: the kernel removes a comparison only where nothing else leads. So in
//! `parse`, on every packet's way, the rare thing is asked for first and its switch behind it. Further on the switch comes
//! first: the other way round, the compiler keeps the parsed packet in memory, and the stack has no room for it.

use lb_common::hash::{HashKey, KEY_WORDS, Key};

macro_rules! setting {
    ($(#[$doc:meta])* $reader:ident: $type:ty = $symbol:ident) => {
        #[unsafe(no_mangle)]
        static $symbol: $type = 0;

        $(#[$doc])*
        #[inline(always)]
        pub fn $reader() -> $type {
            // SAFETY: a static of our own. Volatile, because the compiler must not believe the zero above.
            unsafe { core::ptr::read_volatile(&$symbol) }
        }
    };
}

setting!(ipv4: u8 = SETTING_IPV4);
setting!(ipv6: u8 = SETTING_IPV6);
setting!(nat: u8 = SETTING_NAT);
setting!(ipip: u8 = SETTING_IPIP);
setting!(dsr_l2: u8 = SETTING_DSR_L2);
setting!(gre: u8 = SETTING_GRE);
setting!(gue: u8 = SETTING_GUE);
setting!(overlay: u8 = SETTING_OVERLAY);
setting!(crossing: u8 = SETTING_CROSSING);
setting!(vlan: u8 = SETTING_VLAN);
setting!(extensions: u8 = SETTING_EXTENSIONS);
setting!(fragments: u8 = SETTING_FRAGMENTS);
setting!(icmp: u8 = SETTING_ICMP);
setting!(echo: u8 = SETTING_ECHO);
setting!(too_big: u8 = SETTING_TOO_BIG);
setting!(clamp: u8 = SETTING_CLAMP);
setting!(tracking: u8 = SETTING_TRACKING);
setting!(wildcards: u8 = SETTING_WILDCARDS);
setting!(log: u8 = SETTING_LOG);
setting!(test_clock: u8 = SETTING_TEST_CLOCK);
setting!(tunnel_source_mask4: u32 = SETTING_TUNNEL_SOURCE_MASK4);
setting!(tunnel_source_mask6: u32 = SETTING_TUNNEL_SOURCE_MASK6);

#[unsafe(no_mangle)]
static SETTING_HASH_KEY: HashKey = HashKey([0; KEY_WORDS]);

/// The fleet's hash key, read word by word where it is used.
pub struct LoadedKey;

impl Key for LoadedKey {
    #[inline(always)]
    fn word(&self, i: usize) -> u64 {
        // SAFETY: a static of our own; `i` is a constant below KEY_WORDS at every call.
        unsafe { core::ptr::read_volatile(&SETTING_HASH_KEY.0[i]) }
    }
}
