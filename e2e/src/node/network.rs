//! Two nodes on one wire, each with a bridge for its pods. The first is where the sandbox's own programs are: control plane, and what
//! the test serves. Nothing leads out of it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context;

use crate::control_plane::SERVICE_ADDRESS;
use crate::debian::Debian;
use crate::process::run;

/// A node's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The node's name.
    pub(super) name: &'static str,
    /// Its address on the wire.
    pub(super) address: Ipv4Addr,
    /// Its pods have the addresses `10.20.<number>.0/24`.
    number: u8,
    /// Whether it is in a network namespace beside that of the sandbox.
    is_apart: bool,
}

pub(super) const FIRST: Place =
    Place { name: "node-one", address: Ipv4Addr::new(10, 10, 0, 1), number: 1, is_apart: false };
const SECOND: Place =
    Place { name: "node-two", address: Ipv4Addr::new(10, 10, 0, 2), number: 2, is_apart: true };

/// The name of the second namespace, and of the two ends of the wire.
const NAMESPACE: &str = "node-two";
const ENDS: [&str; 2] = ["wire-one", "wire-two"];

/// A network that is laid.
pub(super) struct Network {}

impl Place {
    /// The addresses of its pods.
    pub(super) fn pods(&self) -> String {
        format!("10.20.{}.0/24", self.number)
    }

    /// The file of its network namespace, if it has one of its own.
    pub(super) fn namespace(&self) -> Option<PathBuf> {
        self.is_apart.then(|| PathBuf::from("/run/netns").join(NAMESPACE))
    }
}

impl Network {
    /// Lays it, in the sandbox's empty network.
    pub(super) fn lay(debian: &Debian) -> anyhow::Result<Network> {
        let ip = |arguments: &str| -> anyhow::Result<()> {
            let mut ip = debian.command("ip")?;
            ip.args(arguments.split_whitespace());
            run(&ip)
        };
        let [one, two] = ENDS;
        ip(&format!("netns add {NAMESPACE}"))?;
        ip(&format!("link add {one} type veth peer name {two} netns {NAMESPACE}"))?;
        // The Service of the API server, which no proxy of Services is here to lead to: it listens there itself.
        ip("link set lo up")?;
        ip(&format!("address add {SERVICE_ADDRESS}/32 dev lo"))?;
        for (place, end, other) in [(FIRST, one, SECOND), (SECOND, two, FIRST)] {
            let within = if place.is_apart { format!("-n {NAMESPACE} ") } else { String::new() };
            ip(&format!("{within}link set lo up"))?;
            ip(&format!("{within}address add {}/24 dev {end}", place.address))?;
            ip(&format!("{within}link set {end} up"))?;
            ip(&format!("{within}route add {} via {}", other.pods(), other.address))?;
            ip(&format!("{within}route add default via {}", other.address))?;
        }
        let forward = "/proc/sys/net/ipv4/ip_forward";
        fs::write(forward, "1").with_context(|| format!("cannot set {forward}"))?;
        let mut second = std::process::Command::new("nsenter");
        second.arg(format!("--net=/run/netns/{NAMESPACE}")).args([
            "sh",
            "-c",
            &format!("echo 1 > {forward}"),
        ]);
        run(&second)?;
        Ok(Network {})
    }

    pub(super) fn places(&self) -> [Place; 2] {
        [FIRST, SECOND]
    }
}
