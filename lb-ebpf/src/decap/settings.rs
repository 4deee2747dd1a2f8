//! Load-time constants of the program for backend hosts, by the names in [`lb_common::decap`].

use lb_common::decap::{ANY_VNI, DEFAULT_GENEVE_PORT, DEFAULT_GUE_PORT, DEFAULT_VXLAN_PORT};

macro_rules! setting {
    ($(#[$doc:meta])* $reader:ident: $type:ty = $symbol:ident, $default:expr) => {
        #[unsafe(no_mangle)]
        static $symbol: $type = $default;

        $(#[$doc])*
        #[inline(always)]
        pub fn $reader() -> $type {
            // SAFETY: a static of our own. Volatile, because the compiler must not believe the default above.
            unsafe { core::ptr::read_volatile(&$symbol) }
        }
    };
}

setting!(/// In network order.
    gue_port: u16 = SETTING_GUE_PORT, DEFAULT_GUE_PORT.to_be());
setting!(/// In network order.
    vxlan_port: u16 = SETTING_VXLAN_PORT, DEFAULT_VXLAN_PORT.to_be());
setting!(/// In network order.
    geneve_port: u16 = SETTING_GENEVE_PORT, DEFAULT_GENEVE_PORT.to_be());
setting!(/// The one network whose packets are taken, unless it is [`ANY_VNI`].
    vni: u32 = SETTING_VNI, ANY_VNI);
