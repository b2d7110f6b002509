//! Who calls on a connection that carries many requests. It may last for hours: who calls is recognized anew for the next request when
//! what the registry knows of callers has changed, or the services beside this node. What policy makes of it [`Caller`] keeps itself.

use super::caller::Caller;
use crate::{
    lock::lock,
    proxy::{
        context::{Context, is},
        local::Local,
    },
    snapshot::{Services, Snapshot},
};
use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
};

/// See the module.
pub(super) struct Recognized {
    recognize: Box<Recognize>,
    /// Only its worker's requests take the lock, so it is always free.
    last: Mutex<Last>,
}

/// `None` where the called service is not beside this node any more: then what was known of it stays.
type Recognize = dyn Fn(&Context, &Snapshot) -> Option<Caller> + Send + Sync;

struct Last {
    services: Weak<Services>,
    local: Weak<Local>,
    caller: Arc<Caller>,
}

impl fmt::Debug for Recognized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recognized").field("caller", &lock(&self.last).caller).finish_non_exhaustive()
    }
}

impl Recognized {
    /// As whom `recognize` recognizes it, this caller until then.
    pub(super) fn new(
        caller: Caller,
        recognize: impl Fn(&Context, &Snapshot) -> Option<Caller> + Send + Sync + 'static,
    ) -> Self {
        let last = Last { services: Weak::new(), local: Weak::new(), caller: Arc::new(caller) };
        Self { recognize: Box::new(recognize), last: Mutex::new(last) }
    }

    /// Who calls, by what holds now.
    pub(super) fn now(&self, context: &Context) -> Arc<Caller> {
        let (snapshot, local) = (context.current.read(), context.local.load());
        let mut last = lock(&self.last);
        if !(is(&last.services, &snapshot.services) && is(&last.local, &local)) {
            (last.services, last.local) = (Arc::downgrade(&snapshot.services), Arc::downgrade(&local));
            if let Some(caller) = (self.recognize)(context, &snapshot).filter(|caller| !caller.is_as(&last.caller)) {
                last.caller = Arc::new(caller);
            }
        }
        Arc::clone(&last.caller)
    }
}
