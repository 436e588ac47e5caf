//! Machines of their own: a network namespace for each process, all joined by a bridge to the suite's own side.
//!
//! Owns namespaces, cables and the rules that drop packets, with the counters that prove it; all of it goes when this is
//! dropped. Does not own the processes inside.

use crate::failure::Failure;
use crate::tool;

/// With it begins the name of whatever is left of a suite that was killed.
pub(crate) const PREFIX: &str = "nm";

/// A bridge, and a namespace for each node.
#[derive(Debug)]
pub(crate) struct Network {
    /// Of this process, in names.
    id: u32,
    nodes: Vec<u8>,
    subnet: Subnet,
}

/// Three of the four numbers of an address; one number is left for the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subnet(pub(crate) [u8; 3]);

impl Subnet {
    /// One of its addresses.
    pub(crate) fn host(self, node: u8) -> String {
        let [a, b, c] = self.0;
        format!("{a}.{b}.{c}.{node}")
    }
}

/// Packets that are dropped on their way into a node, or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// What comes from the peer.
    In,
    /// What goes to the peer.
    Out,
    /// Both.
    Both,
}

impl Network {
    /// Cables up so many nodes.
    pub(crate) async fn new(subnet: Subnet, nodes: &[u8]) -> Result<Self, Failure> {
        let network = Self { id: std::process::id(), nodes: nodes.to_vec(), subnet };
        let bridge = network.bridge();
        tool::run(&["ip", "link", "add", &bridge, "type", "bridge"]).await?;
        tool::run(&["ip", "addr", "add", &format!("{}/24", subnet.host(1)), "dev", &bridge]).await?;
        tool::run(&["ip", "link", "set", &bridge, "up"]).await?;
        for node in nodes {
            network.add(*node).await?;
        }
        Ok(network)
    }

    async fn add(&self, node: u8) -> Result<(), Failure> {
        let (space, cable, bridge) = (self.space(node), self.cable(node), self.bridge());
        tool::run(&["ip", "netns", "add", &space]).await?;
        tool::run(&["ip", "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &space]).await?;
        tool::run(&["ip", "link", "set", &cable, "master", &bridge, "up"]).await?;
        let address = format!("{}/24", self.subnet.host(node));
        tool::run(&["ip", "-n", &space, "addr", "add", &address, "dev", "eth0"]).await?;
        tool::run(&["ip", "-n", &space, "link", "set", "eth0", "up"]).await?;
        tool::run(&["ip", "-n", &space, "link", "set", "lo", "up"]).await?;
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("{PREFIX}{}b", self.id)
    }

    fn cable(&self, node: u8) -> String {
        format!("{PREFIX}{}v{node}", self.id)
    }

    /// The namespace of a node.
    pub(crate) fn space(&self, node: u8) -> String {
        format!("{PREFIX}{}n{node}", self.id)
    }

    /// How a program is started in a node's namespace.
    pub(crate) fn enter(&self, node: u8) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.space(node))]
    }

    /// Drops what passes between a node and a peer; in force when this returns.
    pub(crate) async fn cut(&self, node: u8, peer: u8, way: Way) -> Result<(), Failure> {
        let peer = self.subnet.host(peer);
        let into = if way == Way::Out { String::new() } else { format!("ip saddr {peer} counter name dropped drop") };
        let out = if way == Way::In { String::new() } else { format!("ip daddr {peer} counter name dropped drop") };
        self.rules(node, &into, &out).await
    }

    /// Answers whatever a peer sends to a node with a reset.
    pub(crate) async fn reset(&self, node: u8, peer: u8) -> Result<(), Failure> {
        let peer = self.subnet.host(peer);
        let into = format!("ip saddr {peer} meta l4proto tcp counter name dropped reject with tcp reset");
        self.rules(node, &into, "").await
    }

    /// Pulls a node's cable, or puts it in again.
    pub(crate) async fn plug(&self, node: u8, is_in: bool) -> Result<(), Failure> {
        let state = if is_in { "up" } else { "down" };
        tool::run(&["ip", "link", "set", &self.cable(node), state]).await.map(drop)
    }

    /// How often a node's cable was pulled or put in.
    pub(crate) async fn plugged(&self, node: u8) -> Result<u64, Failure> {
        let file = format!("/sys/class/net/{}/carrier_changes", self.cable(node));
        let text = tool::run(&["cat", &file]).await?;
        text.trim().parse().map_err(|_| Failure::Setup(format!("{file} says {text:?}")))
    }

    async fn rules(&self, node: u8, into: &str, out: &str) -> Result<(), Failure> {
        let rules = format!(
            "add table inet nemesis\ndelete table inet nemesis\ntable inet nemesis {{\n  counter dropped {{ }}\n  chain i {{\n    \
             type filter hook input priority 0;\n    {into}\n  }}\n  chain o {{\n    type filter hook output priority 0;\n    \
             {out}\n  }}\n}}\n"
        );
        let net = format!("--net=/run/netns/{}", self.space(node));
        tool::fed(&["nsenter", &net, "nft", "-f", "-"], &rules).await.map(drop)
    }

    /// Ends a cut; how many packets it has dropped.
    pub(crate) async fn heal(&self, node: u8) -> Result<u64, Failure> {
        let dropped = self.dropped(node).await?;
        let net = format!("--net=/run/netns/{}", self.space(node));
        tool::run(&["nsenter", &net, "nft", "delete", "table", "inet", "nemesis"]).await?;
        Ok(dropped)
    }

    /// How many packets the present cut of a node has dropped.
    pub(crate) async fn dropped(&self, node: u8) -> Result<u64, Failure> {
        let net = format!("--net=/run/netns/{}", self.space(node));
        let text = tool::run(&["nsenter", &net, "nft", "list", "counter", "inet", "nemesis", "dropped"]).await?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        Ok(words.next().and_then(|packets| packets.parse().ok()).unwrap_or(0))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in &self.nodes {
            tool::succeeds(&["ip", "netns", "del", &self.space(*node)]);
            tool::succeeds(&["ip", "link", "del", &self.cable(*node)]);
        }
        tool::succeeds(&["ip", "link", "del", &self.bridge()]);
    }
}
