//! Builds and wires everything, nothing else: one process from its configuration to its end.

mod beyond;
mod end;
mod known;
mod listen;
mod names;
mod process;
mod ready;
mod resident;
mod supervisor;

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use certs::{
    id::NodeId,
    tls::{EXPORTER_JOIN, Tls},
};
use membership::{
    body::{Address, Body},
    engine::{Config as EngineConfig, Engine, Own},
    gossip::{Gossip, GossipConfig},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
    sync::mpsc,
};

use self::{
    known::{Known, load, state},
    process::Signals,
    supervisor::Supervisor,
};
use crate::{
    agent::{
        Agent, Apply,
        addresses::Addresses,
        admin::{self, Admin},
        catch_up, drift,
        enrol::Enrolment,
        error::{Error, fail, internal},
        groups,
        hearing::Hearing,
        journal,
        links::Links,
        local::Local,
        members::{Input, Members, Met, Task as MembersTask},
        outliers::Sharing,
        peers,
        renew::Renewal,
        rotation,
        shares::Shares,
        socket,
        state_dir::{Owner, StateDir},
        sync::{Parts, Requests, Sync},
        timeline,
        whereabouts::Whereabouts,
        workload::{self, WorkloadApi},
        world::World,
    },
    clock::Clock,
    config::{Config, Gateway},
    dns,
    mesh::{self, Mesh, WorkerSockets, peer::PeerNetwork},
    proxy::{ApplyError, Bound, DataPlane, Seat, run_worker, sweep_outliers},
    snapshot::Circuits,
    tasks::{IDLE_THREADS, Tasks, beside::Beside},
    telemetry::Telemetry,
    web,
};

/// Threads of the control runtime. Links and members live beside it, on a thread of their own.
const CONTROL_THREADS: usize = 2;
/// Threads for the disk, and for nothing that another machine can hold up: see [`crate::tasks::apart`].
const BLOCKING_THREADS: usize = 8;
/// The longest that a starting node makes its applications wait until it knows the services beside it.
const SETTLE: Duration = Duration::from_secs(1);
/// How often, and how long after each other, a listener tries to get the port that a gateway is about to close.
const HANDOVERS: usize = 10;
const HANDOVER: Duration = Duration::from_millis(100);
/// Failed data connections that wait for the engine.
const FAILURES: usize = 256;
/// Version of what nodes say to each other.
const WIRE: u8 = 1;
/// Time between two rounds of the repair path.
const GOSSIP_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a node until it is told to stop.
///
/// # Errors
/// What keeps it from running: `not_joined`, `address_in_use`, `key_permissions`, ... or what ended it.
pub fn run(config: Config) -> Result<(), Error> {
    crate::logging::start(&config.log);
    process::prepare();
    let (dir, owner) = state(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(IDLE_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(internal)?;
    // Boxed, or its code is compiled once for each way in which a runtime polls.
    let node: Pin<Box<dyn Future<Output = Result<(), Error>>>> = Box::pin(node(config, Arc::new(dir), owner));
    let result = runtime.block_on(node);
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// The doors of administration, open but not yet served.
struct Doors {
    admin: TcpListener,
    socket: UnixListener,
    metrics: Option<TcpListener>,
    workload: Option<UnixListener>,
    dns: Option<dns::Sockets>,
}

impl Doors {
    /// Where this node listens that no application does, beside its data plane; ports of 0 filled in.
    fn listeners(&self, mesh: &Mesh) -> Vec<SocketAddr> {
        let admin = [Some(self.admin.local_addr()), self.metrics.as_ref().map(TcpListener::local_addr)];
        let dns = self.dns.as_ref().map(dns::Sockets::local_addr);
        let bound = admin.into_iter().chain([dns]).flatten().filter_map(Result::ok);
        bound.chain([mesh.local_addr()]).collect()
    }
}

async fn node(config: Config, dir: Arc<StateDir>, owner: Owner) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(internal)?;
    let tasks = Tasks::new();
    let links = tasks.beside("links").map_err(internal)?;
    let (loading, theirs) = (dir.clone(), owner.clone());
    let (known, journal) = tokio::task::spawn_blocking(move || load(&loading, &theirs)).await.map_err(internal)??;
    let given = config;
    let policy = known.world.current().load().state.clone();
    let (config, _) = groups::all_filled(&given, &policy);
    // Leafs are there before anybody is told of services; those that the grant lacks are named later.
    let lifetimes = policy.lifetimes();
    known.identity.refresh(&config.accounts(), &lifetimes, Clock.now(), rand::random());

    let (mesh, workers, control) = bind(&config, &known, &tasks)?;
    let mut doors = open_doors(&config).await?;
    let network = start_network(&mesh, control, &links)?;
    let telemetry = Telemetry::new(config.workers).with_environment(process::environment());
    let (told, failures) = mpsc::channel(FAILURES);
    let current = known.world.current().clone();
    let (circuits, outlets) = Circuits::new();
    let circuits = Arc::new(circuits);
    let (plane, seats) = DataPlane::new(
        config.workers,
        current,
        telemetry.clone(),
        tasks.clone(),
        told,
        &config.locality,
        circuits.clone(),
    );
    tasks.critical("telemetry", telemetry.clone().run(tasks.clone()));
    tasks.critical("outliers", sweep_outliers(circuits.clone()));
    let plane = Arc::new(plane);
    let threads = start_workers(&config, &mesh, seats, workers, &tasks)?;

    let (members, inputs) = Members::channel();
    let hearing = Hearing::default();
    let noted = known.events.watch();
    let sync = synchroniser(&known, &mesh, &members, &tasks);
    let local = Local::new(owner.node.clone(), members.clone(), sync.events.clone(), tasks.clone());
    let bound = apply(&plane, &config).await?;
    let requests = Requests::new(sync.clone(), local.clone(), telemetry.clone());
    start_membership(&config, &known, &mesh, &network, inputs, requests, &hearing, (&tasks, &links));
    tasks.critical("shares", Shares::new(known.world.clone(), members.clone(), hearing.demand.clone()).run());
    let sharing = Sharing {
        circuits: circuits.clone(),
        outlets,
        hearing,
        members: members.clone(),
        links: sync.links.clone(),
        current: known.world.current().clone(),
        local: local.clone(),
        tasks: tasks.clone(),
    };
    tasks.critical("outlier-sharing", sharing.run());
    tasks.critical("timeline", timeline::watch(sync.clone(), circuits.clone()));
    let (pulled, told) = mpsc::channel(1);
    tasks.critical("journal", journal::keep(sync.clone(), journal, noted, told));
    tasks.critical("journal-pull", journal::pull(sync.clone(), pulled));
    let (store, configs) = ((known.store.clone(), dir.clone()), (given, config.clone()));
    let agent = Agent::new(sync.clone(), local.clone(), store, configs, applier(&plane));
    beyond::start(doors.listeners(&mesh), &known.world, &plane, agent.secrets(), &tasks);
    let fixed = owner.enroller.iter().map(ToString::to_string).chain(config.mesh.peers.iter().cloned()).collect();
    let addresses = Arc::new(Addresses::load(dir.clone(), fixed));
    tasks.critical("clock", drift::run(sync.clone(), dir.clone()));
    tasks.critical("catch-up", catch_up::run(sync.clone(), addresses.clone()));
    let (told, whom, at) = (agent.clone(), members.clone(), addresses.clone());
    let enroller = owner.enroller;
    tasks.kept("peers", move || peers::follow(told.clone(), whom.clone(), enroller, at.clone()));
    let renewal = Renewal { sync: sync.clone(), local: local.clone(), dir, addresses };
    start_control(&config, &owner, &known, &mesh, &network, renewal, failures, &tasks).await;
    let following = agent.clone();
    tasks.kept("groups", move || following.clone().follow_groups());

    let ready = ready::line(&config, &mesh, &doors, &bound, &names::capture(&config, &plane).await?);
    names::start(&config, doors.dns.take(), &plane, known.world.current(), &telemetry, &tasks)?;
    let admin = Admin::new(agent.clone(), telemetry, tasks.clone(), circuits);
    admin.tell_concerns();
    serve(&config, doors, (&agent, admin), network, &tasks);
    agent.set_listening(true);
    tokio::join!(settled(&known.world, &owner.node, &local), sync.compared());
    plane.serve();
    ready::print(&ready);
    let supervisor = Supervisor::of_environment();
    supervisor.ready();
    resident::give_back_after_start(&tasks);
    supervisor.keep_told(&tasks);

    end::until_told(&agent, &mut signals, &tasks).await;
    supervisor.stopping();
    agent.leave().await;
    let failure = tasks.failure().map(|failure| fail("failed", failure.to_string(), "see the log before this"));
    tokio::select! {
        () = end::farewell(&config, &members, &mesh, &plane, threads, &tasks) => {}
        () = end::another(&mut signals) => {
            // What is dropped from now on is no failure.
            tasks.stop();
            tracing::warn!("a second signal: ending at once");
        }
    }
    links.end().await;
    for path in config.workload.iter().chain([&config.admin.socket]) {
        let _ = std::fs::remove_file(path);
    }
    known.world.fatal().or(failure).map_or(Ok(()), Err)
}

/// The doors for other nodes, on the thread where links live.
fn start_network(mesh: &Mesh, sockets: mesh::ControlSockets, links: &Beside) -> Result<PeerNetwork, Error> {
    let _there = links.enter();
    PeerNetwork::start(mesh, sockets).map_err(internal)
}

/// Waits until requests find the services beside this node, and commands this node itself, but not for long: an application that hangs
/// does not keep the others from being served.
async fn settled(world: &World, node: &NodeId, local: &Local) {
    let mut changes = world.changes();
    // Who invites at once is told by this node where it is.
    let is_member = || world.view().member(node).is_some_and(|own| own.usable() && !own.addresses.is_empty());
    let seen = async {
        while !is_member() || !local.is_seen_in(&world.current().load().services) {
            // An error means that the node ends.
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(SETTLE, seen).await.is_err() {
        tracing::warn!("not every service beside this node was checked within {SETTLE:?}: serving all the same");
    }
}

fn bind(
    config: &Config,
    known: &Known,
    tasks: &Tasks,
) -> Result<(Mesh, Vec<WorkerSockets>, mesh::ControlSockets), Error> {
    let identity = &known.identity;
    let authority = known.world.authority().clone();
    let tls = Tls::new(authority, identity.leafs().clone(), identity.own(), Arc::new(Clock));
    let settings = mesh::Config {
        listen: config.mesh.listen,
        workers: config.workers,
        transport: config.mesh.transport,
        reset_secret: identity.secret("quic stateless reset"),
    };
    Mesh::bind(&settings, identity.own(), tls, tasks.clone())
        .map_err(|e| listen::refused(&e, config, config.mesh.listen, "[mesh] listen"))
}

async fn open_doors(config: &Config) -> Result<Doors, Error> {
    let metrics = match config.metrics {
        Some(address) => Some(listen::tcp(config, address, "[metrics] listen").await?),
        None => None,
    };
    let admin = listen::tcp(config, config.admin.listen, "[admin] listen").await?;
    let workload = config.workload.as_deref().map(|path| socket::bind(path, workload::MODE, "[workload] socket"));
    let local = socket::bind(&config.admin.socket, admin::SOCKET_MODE, "[admin] socket")?;
    let dns = names::bind(config).await?;
    Ok(Doors { admin, metrics, workload: workload.transpose()?, socket: local, dns })
}

/// Administration, by every door, and the Workload API.
fn serve(config: &Config, doors: Doors, (agent, admin): (&Agent, Admin), network: PeerNetwork, tasks: &Tasks) {
    if let Some(listener) = doors.workload {
        tasks.critical("workload-api", WorkloadApi::new(agent.clone(), tasks.clone()).serve(listener));
    }
    tasks.critical("admin-socket", admin.clone().serve_socket(doors.socket));
    let allowed = config.admin.allow.clone().into();
    tasks.critical("admin-loopback", admin.clone().serve_loopback(doors.admin, allowed, web::pages()));
    if let Some(metrics) = doors.metrics {
        tasks.critical("admin-metrics", admin.clone().serve_metrics(metrics));
    }
    tasks.critical("admin-operators", admin.serve_operators(network));
}

fn start_workers(
    config: &Config,
    mesh: &Mesh,
    seats: Vec<Seat>,
    sockets: Vec<WorkerSockets>,
    tasks: &Tasks,
) -> Result<Vec<std::thread::JoinHandle<()>>, Error> {
    let mut threads = Vec::with_capacity(seats.len());
    for (index, (seat, sockets)) in seats.into_iter().zip(sockets).enumerate() {
        let (mesh, drain) = (mesh.clone(), config.drain);
        let thread = tasks.worker("worker", index, move || async move {
            match mesh::data::Worker::start(&mesh, sockets) {
                Ok(worker) => run_worker(seat, worker, drain).await,
                Err(error) => tracing::error!("a worker has no sockets: {error}"),
            }
        });
        threads.push(thread.map_err(internal)?);
    }
    tasks.watch_workers();
    Ok(threads)
}

fn synchroniser(known: &Known, mesh: &Mesh, members: &Members, tasks: &Tasks) -> Arc<Sync> {
    Sync::new(Parts {
        book: known.book.clone(),
        world: known.world.clone(),
        links: Links::default(),
        members: members.clone(),
        identity: known.identity.clone(),
        mesh: mesh.clone(),
        events: known.events.clone(),
        tasks: tasks.clone(),
    })
}

#[expect(clippy::too_many_arguments, reason = "the one place that knows all parts")]
fn start_membership(
    config: &Config,
    known: &Known,
    mesh: &Mesh,
    network: &PeerNetwork,
    inputs: mpsc::Receiver<Input>,
    requests: Requests,
    hearing: &Hearing,
    (tasks, links): (&Tasks, &Beside),
) {
    let control = Handle::current();
    let _there = links.enter();
    let sync = requests.sync.clone();
    let own = Own {
        node: config.node.clone(),
        record_key: known.identity.record_key().clone(),
        generation: known.generation,
        identity: known.identity.ca().chain().to_vec(),
    };
    let trust_domain = config.trust_domain.clone();
    let setup =
        EngineConfig { trust_domain: trust_domain.clone(), peers: Vec::new(), last_known: known.members.clone() };
    let authority = known.world.authority().load_full();
    let (gossip, said, repair) =
        Gossip::start(GossipConfig { trust_domain, interval: GOSSIP_INTERVAL, seed: rand::random() });
    tasks.critical("gossip", repair);
    let task = MembersTask {
        engine: Engine::new(setup, own, authority, rand::random(), Clock.now()),
        inputs,
        members: sync.members.clone(),
        gossip: (gossip, said),
        network: network.clone(),
        mesh: mesh.clone(),
        links: sync.links.clone(),
        world: known.world.clone(),
        requests,
        store: known.store.clone(),
        policy: sync.wake.clone(),
        hearing: hearing.clone(),
        events: sync.events.clone(),
        met: Met::default(),
        tasks: tasks.clone(),
        control,
        clock: Clock,
    };
    tasks.critical("members", task.run());
}

#[expect(clippy::too_many_arguments, reason = "the one place that knows all parts")]
async fn start_control(
    config: &Config,
    owner: &Owner,
    known: &Known,
    mesh: &Mesh,
    network: &PeerNetwork,
    renewal: Renewal,
    failures: mpsc::Receiver<NodeId>,
    tasks: &Tasks,
) {
    let sync = renewal.sync.clone();
    let whereabouts = Whereabouts {
        dir: renewal.dir.clone(),
        owner: owner.clone(),
        advertise: config.mesh.advertise,
        bound: mesh.local_addr(),
        addresses: renewal.addresses.clone(),
    };
    let address = Address {
        addresses: vec![whereabouts.told()],
        locality: config.locality.clone(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        wire: (WIRE, WIRE),
        started: Clock.now(),
    };
    sync.members.publish(Body::Address(address.clone())).await;
    if !whereabouts.is_fixed() {
        tasks.critical("whereabouts", whereabouts.follow(address, sync.members.clone(), tasks.clone()));
    }
    let state = known.world.current().load().state.clone();
    renewal.local.set(&config.services, &state).await;
    let local = renewal.local.clone();
    tasks.kept("workers", move || local.clone().follow_workers());
    tasks.critical("policy", sync.clone().run());
    tasks.critical("rotation", rotation::run(sync.clone()));
    tasks.critical("renewal", renewal.run());
    let members = sync.members.clone();
    let failures = Arc::new(tokio::sync::Mutex::new(failures));
    tasks.kept("data-failures", move || {
        let (members, failures) = (members.clone(), failures.clone());
        async move {
            while let Some(node) = failures.lock().await.recv().await {
                members.data_failure(node);
            }
        }
    });
    let (book, identity, rollback) = (known.book.clone(), known.identity.clone(), sync.rollback.clone());
    let enrolment = Arc::new(Enrolment::new(book, identity, known.world.authority().clone(), rollback, Clock));
    let (network, spawner) = (network.clone(), tasks.clone());
    tasks.kept("enrolment", move || {
        let (network, spawner, enrolment) = (network.clone(), spawner.clone(), enrolment.clone());
        async move {
            while let Some(stream) = network.accept_join().await {
                let (enrolment, remote) = (enrolment.clone(), stream.remote());
                let Ok(exporter) = stream.exporter(EXPORTER_JOIN) else { continue };
                spawner.detach("joiner", async move { enrolment.serve(stream, &exporter, remote).await });
            }
        }
    });
}

async fn attempt(plane: &DataPlane, config: &Config) -> Result<Bound, ApplyError> {
    plane.apply(&config.services, &config.outbounds, &config.upstreams).await
}

async fn apply(plane: &DataPlane, config: &Config) -> Result<Bound, Error> {
    let mut applied = attempt(plane, config).await;
    let in_the_way = applied.as_ref().err().and_then(|error| plane.gateway_in_the_way(error));
    let wanted = &config.gateway;
    let moves = |now: &Gateway| (now.listen, &now.ports) != (wanted.listen, &wanted.ports);
    if let Some(before) = in_the_way.filter(|before| moves(before)) {
        // The port may be one that a gateway gives up by this configuration.
        plane.set_gateway(wanted);
        for _ in 0..HANDOVERS {
            tokio::time::sleep(HANDOVER).await;
            applied = attempt(plane, config).await;
            if applied.is_ok() {
                break;
            }
        }
        if applied.is_err() {
            plane.set_gateway(&before);
        }
    }
    let bound = applied.map_err(|error| {
        listen::unopened(error, config, "[[outbound]], [[upstream]] or `plaintext` of a [[service]]")
    })?;
    // Set last: what is refused leaves the ports of gateways where they were.
    plane.set_gateway(wanted);
    Ok(bound)
}

fn applier(plane: &Arc<DataPlane>) -> Apply {
    let plane = plane.clone();
    Box::new(move |config| {
        let plane = plane.clone();
        Box::pin(async move { apply(&plane, &config).await.map(drop) })
    })
}
