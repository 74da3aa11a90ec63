//! A node of the simulated cluster: what it answers, and what it does to the keys.
//!
//! Invariant: it answers as a server does, faults apart: in order, one reply a request, MOVED, ASK and
//! TRYAGAIN by who owns what at that moment. What is right the simulation itself checks.

use super::*;

impl Sim {
    /// Lets a node execute the next request on a wire.
    pub(super) fn node_step(&mut self, wire_key: Key) {
        let Some(wire) = self.wires.get_mut(&wire_key) else {
            return;
        };
        let mut args = Vec::new();
        let Ok(RequestScan::Multibulk(n)) =
            RequestScanner::default().scan(&wire.to_node, &mut args, usize::MAX)
        else {
            return;
        };
        let frame: Vec<u8> = wire.to_node.drain(..n).collect();
        let request = Request::new(&frame, None, &args);
        let name = String::from_utf8_lossy(request.arg(0)).into_owned();
        let asking = std::mem::take(&mut wire.asking);
        let mut out = Vec::new();
        match name.as_str() {
            // As a server does: in MULTI even AUTH is queued.
            "AUTH" if wire.multi.is_some() => encode::simple(&mut out, "QUEUED"),
            // The old authentication stays in force.
            "AUTH" if self.faulty && self.rng.u32(0..6) == 0 => {
                encode::error(&mut out, "ERR (ERR_IAM_EXHAUSTED) quota exceeded.");
            }
            "AUTH" => {
                wire.authenticated = true;
                encode::simple(&mut out, "OK");
            }
            _ if self.auth && !wire.authenticated => {
                encode::error(&mut out, "NOAUTH Authentication required.");
            }
            "READONLY" => {
                wire.readonly = true;
                encode::simple(&mut out, "OK");
            }
            _ if wire.node >= NODES => {
                assert!(wire.readonly && name == "GET", "{name} reached a replica");
                let (node, k) = (wire.node, request.arg(1).to_vec());
                out = self.replica_read(node - NODES, &k);
            }
            "MULTI" => {
                wire.multi = Some((Vec::new(), false));
                encode::simple(&mut out, "OK");
            }
            "EXEC" => {
                let (queued, refused) = wire.multi.take().expect("after MULTI");
                let node = wire.node;
                let moved = queued.iter().map(|(k, _)| slot(k.as_bytes())).find(|s| {
                    let state = self.slots[s];
                    state.owner != node
                });
                if refused {
                    encode::error(
                        &mut out,
                        "EXECABORT Transaction discarded because of previous errors.",
                    );
                } else if let Some(s) = moved {
                    encode::error(&mut out, &format!("MOVED {s} {}", addr(self.slots[&s].owner)));
                } else if queued.iter().any(|(k, _)| self.arrived.contains(k)) {
                    encode::error(
                        &mut out,
                        "TRYAGAIN Multiple keys request during rehashing of slot",
                    );
                } else {
                    encode::header(&mut out, b'*', queued.len() as i64);
                    for (key, value) in queued {
                        encode::simple(&mut out, &value);
                        self.execute(key, value);
                    }
                }
            }
            "ASKING" => {
                wire.asking = true;
                encode::simple(&mut out, "OK");
            }
            _ => {
                let key = String::from_utf8_lossy(request.arg(1)).into_owned();
                let s = slot(key.as_bytes());
                let state = self.slots[&s];
                let here = if state.owner == wire.node {
                    state.importing.is_none() || !self.arrived.contains(&key)
                } else {
                    state.importing == Some(wire.node) && asking && self.arrived.contains(&key)
                };
                let value = String::from_utf8_lossy(request.arg(2)).into_owned();
                if here && let Some((queued, _)) = &mut wire.multi {
                    queued.push((key, value));
                    encode::simple(&mut out, "QUEUED");
                } else if here {
                    if name == "SET" {
                        self.execute(key, value.clone());
                    }
                    let shown = if name == "SET" { value } else { key_value(request.arg(1)) };
                    encode::simple(&mut out, &shown);
                } else if let Some((_, refused)) = &mut wire.multi {
                    *refused = true;
                    let to = if state.owner == wire.node {
                        state.importing.unwrap_or(0)
                    } else {
                        state.owner
                    };
                    let kind = if state.owner == wire.node { "ASK" } else { "MOVED" };
                    encode::error(&mut out, &format!("{kind} {s} {}", addr(to)));
                } else if state.owner == wire.node {
                    let to = addr(state.importing.expect("migrating"));
                    encode::error(&mut out, &format!("ASK {s} {to}"));
                } else {
                    encode::error(&mut out, &format!("MOVED {s} {}", addr(state.owner)));
                }
            }
        }
        let Some(wire) = self.wires.get_mut(&wire_key) else { return };
        if let Some(wanted) = &self.trace {
            let text = String::from_utf8_lossy(&frame).replace("\r\n", " ");
            if wanted.split(',').any(|w| text.contains(w)) {
                let reply = String::from_utf8_lossy(&out);
                println!("{} node {} asking {asking}: {text} -> {reply}", self.now, wire.node);
            }
        }
        wire.to_proxy.extend_from_slice(&out);
    }

    /// A replica's answer to GET: now and then late, loading, or wrong about the slot's owner.
    fn replica_read(&mut self, primary: usize, k: &[u8]) -> Vec<u8> {
        let state = self.slots[&slot(k)];
        let strict = self.hub.settings.read_from == ReadFrom::Replica;
        let arrived = self.arrived.contains(&*String::from_utf8_lossy(k));
        let mut out = Vec::new();
        match self.rng.u32(0..12) {
            0 if self.faulty => encode::error(&mut out, "LOADING Redis is loading the dataset"),
            1 if self.faulty => encode::error(&mut out, "MASTERDOWN Link with MASTER is down"),
            2 if self.faulty => {
                let to = addr(self.rng.usize(0..NODES));
                encode::error(&mut out, &format!("MOVED {} {to}", slot(k)));
            }
            _ if state.owner != primary => {
                encode::error(&mut out, &format!("MOVED {} {}", slot(k), addr(state.owner)));
            }
            3 if !strict => encode::null(&mut out, crate::resp::Version::V2),
            _ if arrived && !strict => encode::null(&mut out, crate::resp::Version::V2),
            _ => encode::simple(&mut out, &key_value(k)),
        }
        out
    }

    fn execute(&mut self, key: String, value: String) {
        let index: usize = value.split('/').next().and_then(|s| s.parse().ok()).expect("tag");
        let session = *self.clients.keys().nth(index).expect("client");
        self.executed.entry(key).or_default().push((session, value));
    }

    /// True while a request for this slot, or its redirect, is on its way to or from a node.
    ///
    /// A slot that comes back to a node which has redirected the first of a run of commands, and not
    /// yet the rest, is beyond what any proxy that pipelines can order.
    pub(super) fn slot_in_transit(&self, s: u16, node: Option<usize>) -> bool {
        let names: Vec<String> = (0..KEYS).map(key).filter(|k| slot(k.as_bytes()) == s).collect();
        let has =
            |hay: &[u8], needle: &str| hay.windows(needle.len()).any(|x| x == needle.as_bytes());
        let redirected =
            self.wires.values().filter(|w| node.is_none_or(|n| n == w.node)).any(|w| {
                has(&w.to_proxy, &format!("MOVED {s} ")) || has(&w.to_proxy, &format!("ASK {s} "))
            });
        redirected
            || self.hub.pipes.iter().any(|(k, p)| {
                let to = &self.hub.nodes[usize::from(p.node)].addr;
                if node.is_some_and(|n| addr(n) != *to) {
                    return false;
                }
                // A name may be half on the wire; commands that were held are a slice each.
                let mut slices = [IoSlice::new(&[]); 256];
                let n = p.out.unsent_slices(&mut slices);
                assert!(n < 256, "more is queued than is looked at");
                let mut bytes = self.wires.get(&k).map_or(Vec::new(), |w| w.to_node.clone());
                slices[..n].iter().for_each(|b| bytes.extend_from_slice(b));
                // Half a reply in the proxy may be half a redirect.
                p.has_input() || names.iter().any(|n| has(&bytes, n))
            })
    }
}
