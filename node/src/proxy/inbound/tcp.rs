//! Connections of bytes that reach applications beside this node: judged once by what can be known of them without a look into
//! their bytes, connected, answered for, and judged again whenever the rules change.

use super::{
    admission,
    caller::{Caller, Who},
    observe,
    pool::Pool,
};
use crate::{
    config, descriptors,
    mesh::stream::VirtualStream,
    proxy::{
        context::Context,
        failure::Cause,
        flight::Flight,
        gateway::{Known, MadeFor},
        listen,
        local::Local,
        tcp::{Account, Answer, End, Spans, relay},
    },
    snapshot::Current,
};
use arc_swap::ArcSwap;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// For a caller to hear a refusal and to end its side, so that the connection between the nodes can be used again.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection that was let in and leads to the application.
pub(in crate::proxy) struct Arrival {
    pub(in crate::proxy) stream: TcpStream,
    pub(in crate::proxy) account: Account,
    standing: Standing,
    held: Held,
}

/// What it has until it ends.
struct Held {
    /// Its room in front of the application, where that is limited.
    _flight: Option<Flight>,
    /// Who sent it is known at this node's gateway, where it leads to that.
    _known: Option<Known>,
}

/// One that was not.
#[derive(Debug)]
pub(in crate::proxy) struct Refused(pub(in crate::proxy) Cause);

impl Arrival {
    /// Ends it from this side: when the rules deny it, or this node has drained.
    pub(in crate::proxy) fn split(self) -> (TcpStream, Account, impl Future<Output = End>) {
        let Self { stream, account, mut standing, held } = self;
        let denied = async move {
            // Held until the connection ends, whatever ends it.
            let _held = held;
            standing.forbidden().await;
            End::Denied
        };
        (stream, account, denied)
    }
}

/// Serves a stream of bytes that another node opened.
pub(super) async fn serve(context: &Context, caller: &Caller, mut stream: VirtualStream) {
    let arrival = match open(context, caller).await {
        Ok(arrival) => arrival,
        Err(Refused(cause)) => return refuse(stream, cause).await,
    };
    let (application, account, denied) = arrival.split();
    if Answer::Open.write(&mut stream).await.is_err() {
        return;
    }
    let until = async {
        tokio::select! {
            end = denied => end,
            () = context.cut() => End::Stopped,
        }
    };
    // How long it may go on, its caller says.
    relay(&context.budget, (stream, application), &mut [account], Spans::default(), until).await;
}

async fn refuse(mut stream: VirtualStream, cause: Cause) {
    let said = async {
        Answer::Refused(cause).write(&mut stream).await?;
        stream.shutdown().await?;
        // The caller has nothing to say.
        stream.read(&mut [0]).await
    };
    if timeout(FAREWELL, said).await.is_err() {
        tracing::debug!("a refused caller does not leave");
    }
}

/// Lets a connection in, if the rules do, and connects it to the application.
///
/// # Errors
/// The rules do not, the port is not here or takes requests only, or the application takes no connection.
pub(in crate::proxy) async fn open(context: &Context, caller: &Caller) -> Result<Arrival, Refused> {
    // From here on no change of the rules is missed.
    let standing = Standing::new(context, &caller.who);
    let mut account = Account::new(observe::begin_connection(context, caller));
    account.between(Arc::clone(&caller.recorder));
    match connected(context, caller, &mut account).await {
        Ok((stream, held)) => {
            account.opened();
            Ok(Arrival { stream, account, standing, held })
        }
        Err((cause, details)) => {
            tracing::debug!(service = %caller.who.service, ?cause, details, "a connection was refused");
            account.failed(cause, details);
            Err(Refused(cause))
        }
    }
}

type Refusal = (Cause, Option<String>);

/// The connection to the application, and what it has.
async fn connected(context: &Context, caller: &Caller, account: &mut Account) -> Result<(TcpStream, Held), Refusal> {
    let (target, pool) = admitted(context, caller)?;
    let flight = pool.connection().map_err(|cause| (cause, None))?;
    account.reaches(target);
    let connecting = async {
        if context.current.is_door(target) {
            let (stream, known) = context.clients.connect(MadeFor::Peer(Arc::clone(&caller.who)), target).await?;
            return Ok((stream, Some(known)));
        }
        Ok::<_, io::Error>((TcpStream::connect(target).await?, None))
    };
    let (stream, known) = match timeout(pool.terms.connect, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "the application does not answer");
            account.transport(Some(error.to_string().into()));
            return Err((Cause::ConnectFailure, None));
        }
        Err(_) => {
            account.transport(Some("no connection within the connect timeout".into()));
            return Err((Cause::ConnectFailure, None));
        }
    };
    if !descriptors::leaves_room(&stream) {
        return Err((Cause::Overflow, None));
    }
    listen::tune(&stream);
    Ok((stream, Held { _flight: flight, _known: known }))
}

/// Where it goes, if it is let in by what holds now.
fn admitted(context: &Context, caller: &Caller) -> Result<(SocketAddr, Arc<Pool>), Refusal> {
    let (snapshot, local, who) = (context.current.read(), context.local.load(), &caller.who);
    let port = local.port(&who.service, who.instance.as_deref(), &who.account, who.port);
    let (service, port) = port.filter(|(_, port)| takes_bytes(port.protocol)).ok_or((Cause::NotServedHere, None))?;
    let (barred, decision, pool) = caller.look(context, &snapshot, &local, service, |rules| {
        let authorizer = &rules.workload.authorizer;
        let decide = || authorizer.decide_connection(&who.peer(port.target.port(), None));
        (rules.barred, (!authorizer.is_open()).then(decide), Arc::clone(&rules.pool))
    });
    if let Some(cause) = barred {
        return Err((cause, None));
    }
    if let Some(decision) = decision {
        admission::report(context, who, || format!("a connection to port {}", who.port), &decision);
        if !decision.allowed() {
            return Err((Cause::Denied, decision.details()));
        }
    }
    Ok((port.target, pool))
}

/// A port of requests takes none but these: what the rules say of requests would not be asked about bytes.
const fn takes_bytes(declared: config::Protocol) -> bool {
    match declared {
        config::Protocol::Tcp | config::Protocol::Tls | config::Protocol::Sniffed => true,
        config::Protocol::Http | config::Protocol::Http2 | config::Protocol::Grpc => false,
    }
}

/// What is kept of a connection that was let in.
struct Standing {
    current: Current,
    local: Arc<ArcSwap<Local>>,
    who: Arc<Who>,
    changes: tokio::sync::watch::Receiver<u64>,
}

impl Standing {
    fn new(context: &Context, who: &Arc<Who>) -> Self {
        Self {
            current: context.current.clone(),
            local: Arc::clone(&context.local),
            who: Arc::clone(who),
            changes: context.rules.subscribe(),
        }
    }

    /// Resolves when it would not be let in any more.
    async fn forbidden(&mut self) {
        loop {
            if self.changes.changed().await.is_err() {
                // No rules come any more.
                return std::future::pending().await;
            }
            if !self.is_allowed() {
                let who = &self.who;
                tracing::info!(source = who.name(), service = %who.service, "ended a connection that policy denies now");
                return;
            }
        }
    }

    fn is_allowed(&self) -> bool {
        match self.who.judged_again(&self.current.load(), &self.local.load()) {
            Ok(Some((workload, port))) => {
                let authorizer = &workload.authorizer;
                authorizer.is_open() || authorizer.decide_connection(&self.who.peer(port, None)).allowed()
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }
}
