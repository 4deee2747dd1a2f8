//! Counters and drop reasons: named once, here, and used by program, metrics, command line and docs.

/// Why Sluice dropped a packet of a service. One word each; the number is an index into
/// [`ServiceCounters::drops`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    NoBackend = 0,
    NoRing = 1,
    Truncated = 2,
    Fragment = 3,
    TtlExceeded = 4,
    TooBig = 5,
    NoRoute = 6,
    NoNeighbour = 7,
    NoHeadroom = 8,
    NotRedirectable = 9,
    Internal = 10,
    ForwardingDisabled = 11,
    BackendDown = 12,
}

/// How many reasons the ABI has room for.
pub const DROP_SLOTS: usize = 24;

impl DropReason {
    pub const ALL: [Self; 13] = [
        Self::NoBackend,
        Self::NoRing,
        Self::Truncated,
        Self::Fragment,
        Self::TtlExceeded,
        Self::TooBig,
        Self::NoRoute,
        Self::NoNeighbour,
        Self::NoHeadroom,
        Self::NotRedirectable,
        Self::Internal,
        Self::ForwardingDisabled,
        Self::BackendDown,
    ];

    /// The one name an operator sees: in metrics, on the command line, in the docs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::NoRing => "no_ring",
            Self::Truncated => "truncated",
            Self::Fragment => "fragment",
            Self::TtlExceeded => "ttl_exceeded",
            Self::TooBig => "too_big",
            Self::NoRoute => "no_route",
            Self::NoNeighbour => "no_neighbour",
            Self::NoHeadroom => "no_headroom",
            Self::NotRedirectable => "not_redirectable",
            Self::Internal => "internal",
            Self::ForwardingDisabled => "forwarding_disabled",
            Self::BackendDown => "backend_down",
        }
    }

    /// What happened and what to look at, in one sentence.
    pub const fn help(self) -> &'static str {
        match self {
            Self::NoBackend => "no backend of the service is up; see the health checks in `sluice status`",
            Self::NoRing => "the service has no ring in the kernel; reload, and report it if it stays",
            Self::Truncated => {
                "the packet ends before its TCP or UDP header does, or its lengths contradict each other"
            }
            Self::Fragment => {
                "IP fragments are not followed, because `packets: fragments` is off; switch it on, or lower the sender's packet size"
            }
            Self::TtlExceeded => "the TTL or hop limit ran out here; look for a routing loop",
            Self::TooBig => {
                "the packet does not fit the next link after encapsulation; lower the clients' MSS or raise the MTU"
            }
            Self::NoRoute => "the host has no route to the backend or client; see `ip route get`",
            Self::NoNeighbour => "the next hop's MAC address is not known (yet); see `ip neigh`",
            Self::NoHeadroom => "the driver leaves no room in front of the packet for an outer header",
            Self::NotRedirectable => "the way out is an interface that cannot take redirected packets",
            Self::ForwardingDisabled => {
                "the kernel does not route for this interface, so it could not be asked for a next hop; \
                 sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
            }
            Self::BackendDown => {
                "the connection's backend is down and `on_backend_down` keeps its connections from the other backends"
            }
            Self::Internal => "a map contradicts itself; please report it with `sluice status -o json`",
        }
    }
}

/// Value of the per-CPU `service_counters`. Index 0 is for packets that belong to no service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCounters {
    /// Packets and bytes from clients, forwarded. For index 0: packets and bytes passed to the host untouched.
    pub packets: u64,
    pub bytes: u64,
    /// Packets and bytes from backends, translated back (NAT only).
    pub reply_packets: u64,
    pub reply_bytes: u64,
    /// TCP packets with SYN and without ACK, forwarded.
    pub syns: u64,
    /// Packets whose next hop was asked of the kernel's FIB (the slow path).
    pub fib_lookups: u64,
    /// Later fragments that followed their first one. For index 0: that had none to follow.
    pub fragments: u64,
    /// ICMP errors about its packets, forwarded in either direction.
    pub icmp_errors: u64,
    /// By [`DropReason`].
    pub drops: [u64; DROP_SLOTS],
}

impl Default for ServiceCounters {
    fn default() -> Self {
        Self {
            packets: 0,
            bytes: 0,
            reply_packets: 0,
            reply_bytes: 0,
            syns: 0,
            fib_lookups: 0,
            fragments: 0,
            icmp_errors: 0,
            drops: [0; DROP_SLOTS],
        }
    }
}

impl ServiceCounters {
    /// Adds another CPU's share.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.reply_packets += other.reply_packets;
        self.reply_bytes += other.reply_bytes;
        self.syns += other.syns;
        self.fib_lookups += other.fib_lookups;
        self.fragments += other.fragments;
        self.icmp_errors += other.icmp_errors;
        for (sum, n) in self.drops.iter_mut().zip(&other.drops) {
            *sum += n;
        }
    }
}

/// Value of the per-CPU `flow_counters`, by service id: what the table of flows did for the service. Steady rows do not
/// touch it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// Packets from clients whose flow was looked up.
    pub lookups: u64,
    /// Of these, packets that went where an entry says.
    pub hits: u64,
    /// Entries written because of a client's packet.
    pub written: u64,
    /// Entries written because of a backend's reply.
    pub proved: u64,
    /// Entries that said nothing any more (backend down, silent for too long, closed) and were vacated, or overwritten with
    /// another backend.
    pub replaced: u64,
    /// Not written: the service has as many entries as it may.
    pub refused_quota: u64,
    /// Not written: the service has written as many in this second as it may.
    pub refused_gate: u64,
    /// Not written: the table is full.
    pub refused_full: u64,
    /// Not written: other CPUs were faster, twice.
    pub refused_race: u64,
    /// Packets answered with RST because the flow's backend is down.
    pub resets: u64,
    /// Echo requests answered.
    pub echoes: u64,
    /// Packets that were too big, and whose sender was told.
    pub too_bigs: u64,
    pub reserved: [u64; 4],
}

impl FlowCounters {
    /// Adds another CPU's share.
    pub fn add(&mut self, other: &Self) {
        self.lookups += other.lookups;
        self.hits += other.hits;
        self.written += other.written;
        self.proved += other.proved;
        self.replaced += other.replaced;
        self.refused_quota += other.refused_quota;
        self.refused_gate += other.refused_gate;
        self.refused_full += other.refused_full;
        self.refused_race += other.refused_race;
        self.resets += other.resets;
        self.echoes += other.echoes;
        self.too_bigs += other.too_bigs;
    }
}

/// Value of the per-CPU `tracked_counters`, by service id: what the tables of tracked flows did for the service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackedCounters {
    /// Packets from clients of tracked flows on rows that are steady, or steady for them.
    pub lookups: u64,
    /// Of these, packets that went where an entry says.
    pub hits: u64,
    /// Of these, TCP packets in the middle of a connection that nobody knew any more: they went where the ring says.
    pub fallbacks: u64,
    /// Flows written down that were not.
    pub written: u64,
    /// Entries that said nothing any more (backend down, silent for too long, closed), or something else than the row,
    /// and were overwritten.
    pub replaced: u64,
    /// Not written: the service has as many tracked flows of this address family as it may.
    pub refused_quota: u64,
    /// Not written: the service has written as many in this second as it may.
    pub refused_gate: u64,
    /// Not written: the table had no room, and nobody to push out.
    pub refused_full: u64,
    /// Not written: other CPUs were faster, twice.
    pub refused_race: u64,
    pub reserved: [u64; 7],
}

impl TrackedCounters {
    /// Adds another CPU's share.
    pub fn add(&mut self, other: &Self) {
        self.lookups += other.lookups;
        self.hits += other.hits;
        self.fallbacks += other.fallbacks;
        self.written += other.written;
        self.replaced += other.replaced;
        self.refused_quota += other.refused_quota;
        self.refused_gate += other.refused_gate;
        self.refused_full += other.refused_full;
        self.refused_race += other.refused_race;
    }
}

/// Value of the per-CPU `backend_counters`, by backend id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    pub packets: u64,
    pub bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

impl BackendCounters {
    /// Adds another CPU's share.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.reply_packets += other.reply_packets;
        self.reply_bytes += other.reply_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_as_listed_and_named_once() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(i < DROP_SLOTS);
            assert!(DropReason::ALL.iter().filter(|r| r.name() == reason.name()).count() == 1);
            assert!(reason.help().split(' ').count() > 5, "{}", reason.help());
        }
    }

    /// Dashboards and alerts hold these words: a new name is a new reason.
    #[test]
    fn names_are_what_they_have_always_been() {
        let names = DropReason::ALL.map(DropReason::name);
        assert_eq!(
            names,
            [
                "no_backend",
                "no_ring",
                "truncated",
                "fragment",
                "ttl_exceeded",
                "too_big",
                "no_route",
                "no_neighbour",
                "no_headroom",
                "not_redirectable",
                "internal",
                "forwarding_disabled",
                "backend_down",
            ]
        );
    }

    #[test]
    fn counters_of_all_cpus_are_summed_one_by_one() {
        let counters = |first: u64| ServiceCounters {
            packets: first,
            bytes: first * 2,
            reply_packets: first * 3,
            reply_bytes: first * 5,
            syns: first * 7,
            fib_lookups: first * 11,
            fragments: first * 13,
            icmp_errors: first * 17,
            drops: core::array::from_fn(|i| first * (19 + i as u64)),
        };
        let mut sum = ServiceCounters::default();
        assert_eq!(sum, counters(0));
        sum.add(&counters(1));
        sum.add(&counters(100));
        assert_eq!(sum, counters(101));

        let counters = |n: u64| BackendCounters { packets: n, bytes: n * 2, reply_packets: n * 3, reply_bytes: n * 5 };
        let mut sum = counters(1);
        sum.add(&counters(100));
        assert_eq!(sum, counters(101));

        let counters = |n: u64| FlowCounters {
            lookups: n,
            hits: n * 2,
            written: n * 3,
            proved: n * 5,
            replaced: n * 7,
            refused_quota: n * 11,
            refused_gate: n * 13,
            refused_full: n * 17,
            refused_race: n * 19,
            resets: n * 23,
            echoes: n * 29,
            too_bigs: n * 31,
            reserved: [0; 4],
        };
        let mut sum = counters(1);
        sum.add(&counters(100));
        assert_eq!(sum, counters(101));

        let counters = |n: u64| TrackedCounters {
            lookups: n,
            hits: n * 2,
            fallbacks: n * 3,
            written: n * 5,
            replaced: n * 7,
            refused_quota: n * 11,
            refused_gate: n * 13,
            refused_full: n * 17,
            refused_race: n * 19,
            reserved: [0; 7],
        };
        let mut sum = counters(1);
        sum.add(&counters(100));
        assert_eq!(sum, counters(101));
    }
}
