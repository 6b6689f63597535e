-------------------------------- MODULE Client -------------------------------
(* The cache of data keys in a client, as one more cache. It watches a cluster *)
(* through one replica at a time, and asks any of them for keys, also one that *)
(* lags behind (protocol R8). The replicas do what Keyfold.tla says of them:   *)
(* they read the store when they can, and refuse once they have not for too    *)
(* long. README.md says more.                                                  *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Replicas, None,
    MaxTime, MaxStore, MaxQueue,    \* bounds: ticks, decisions, messages on their way
    Staleness,              \* store_max_staleness, in ticks
    Silence, Grace,         \* ticks for which the client believes a silent stream, and one that ended
    Events,                 \* the kinds of events that may happen in this run
    \* The safeguards. FALSE takes one away.
    R2_drop,                \* news of the cluster drops its keys
    R2_flight,              \* what news has overtaken brings no key into memory
    R2_refused,             \* nor does what a refusal has overtaken
    R2_lent,                \* a key that was told to be out of service since is lent to nobody
    R8_insert,              \* no key enters memory that the news says to be out of service
    R8_resume,              \* a stream that goes on tells nothing older than its token
    R8_age,                 \* keys serve no longer than the told look at the store allows
    R8_made,                \* a heartbeat counts from when it was made, not from when it is read
    R8_silence,             \* keys do not serve while the stream is silent for too long
    R8_grace,               \* nor while it has been away for longer than the grace
    R8_share,               \* who waits shares an older call only where memory would serve its key
    D5                      \* a key counts for the very cluster that wrapped it, not for its name

VARIABLES
    now,        \* one clock
    store,      \* number of decisions: Revoke, then Restore or a later cluster of the name, and so on
    since,      \* when the last one was made
    rep,        \* each replica: the decision that it has applied, and its last look at the store
    link,       \* the replica that the stream comes from, if any
    sent,       \* the decision that this stream has told, or its token stands for
    queue,      \* the stream's messages on their way
    heard,      \* what the client knows of the cluster and of the stream
    key,        \* the key in memory, if any
    call,       \* the call that is under way, if any
    waits,      \* who waits for it, if anybody
    wrong       \* what was lent that must not have been

vars == <<now, store, since, rep, link, sent, queue, heard, key, call, waits, wrong>>

Enabled(n) == n % 2 = 0

(* With "reuse" the cluster that is enabled again is a later one of the name.  *)
Cluster(n) == IF "reuse" \in Events THEN (n + 1) \div 2 ELSE 0

Serves(r) == Enabled(rep[r].at) /\ now < rep[r].look + Staleness

(* A replica that has not read the store for so long has stopped by itself.    *)
Confirmed == \A r \in Replicas : rep[r].at = store \/ now >= rep[r].look + Staleness

Max(a, b) == IF a > b THEN a ELSE b

(* `News.good`. `look` is the look at the store of which the client was told,  *)
(* `made` the time of the heartbeat that counts, and `ended` that of the end   *)
(* of the last stream. None: there was no heartbeat yet, or it has not ended.  *)
Good ==
    /\ heard.told # None /\ heard.look # None
    /\ R8_age => now < heard.look + Staleness
    /\ R8_silence => now < heard.made + Silence
    /\ R8_grace => heard.ended = None \/ now < heard.ended + Grace

(* A use from memory could happen at this very moment.                         *)
InUse == key # None /\ Good

Unheard == [told |-> None, look |-> None, made |-> None, ended |-> None,
            \* Only invariants use the newest decision told, and when the heartbeat was truly made.
            newest |-> None, truly |-> None, refusals |-> 0]

---------------------------- (* The replicas *) ------------------------------

Decide ==
    /\ store < MaxStore
    /\ store' = store + 1 /\ since' = now
    /\ UNCHANGED <<now, rep, link, sent, queue, heard, key, call, waits, wrong>>

Poll(r) ==
    /\ rep' = [rep EXCEPT ![r] = [at |-> store, look |-> now]]
    /\ rep' # rep
    /\ UNCHANGED <<now, store, since, link, sent, queue, heard, key, call, waits, wrong>>

Tick ==
    /\ now < MaxTime
    /\ now' = now + 1
    /\ UNCHANGED <<store, since, rep, link, sent, queue, heard, key, call, waits, wrong>>

----------------------------- (* The stream *) -------------------------------

(* A watch begins with a snapshot, which the replica reads from the store.     *)
Begins(r) ==
    /\ link = None /\ heard.told = None /\ now < rep[r].look + Staleness
    /\ link' = r /\ sent' = store /\ queue' = <<[kind |-> "state", n |-> store]>>
    /\ UNCHANGED <<now, store, since, rep, heard, key, call, waits, wrong>>

(* It goes on from its token, perhaps on another replica, which may be behind. *)
GoesOn(r) ==
    /\ link = None /\ heard.told # None /\ now < rep[r].look + Staleness
    /\ link' = r
    /\ IF R8_resume
       THEN sent' = heard.told /\ queue' = <<>>
       ELSE sent' = rep[r].at /\ queue' = <<[kind |-> "state", n |-> rep[r].at]>>
    /\ UNCHANGED <<now, store, since, rep, heard, key, call, waits, wrong>>

Tells ==
    /\ link # None /\ Len(queue) < MaxQueue /\ sent < rep[link].at
    /\ sent' = rep[link].at
    /\ queue' = Append(queue, [kind |-> "state", n |-> sent'])
    /\ UNCHANGED <<now, store, since, rep, link, heard, key, call, waits, wrong>>

Beats ==
    /\ link # None /\ Len(queue) < MaxQueue /\ sent >= rep[link].at
    /\ queue' = Append(queue, [kind |-> "beat", age |-> now - rep[link].look, made |-> now])
    /\ UNCHANGED <<now, store, since, rep, link, sent, heard, key, call, waits, wrong>>

(* The stream ends, and what was on its way is lost.                           *)
Ends ==
    /\ "break" \in Events /\ link # None
    /\ link' = None /\ queue' = <<>>
    /\ heard' = [heard EXCEPT !.ended = IF @ = None THEN now ELSE @]
    /\ UNCHANGED <<now, store, since, rep, sent, key, call, waits, wrong>>

Overtaken(told) ==
    IF call = None THEN None
    ELSE [call EXCEPT !.overtaken = TRUE, !.told = @ \/ told]

Reads ==
    LET m == Head(queue) IN
    /\ queue # <<>>
    /\ queue' = Tail(queue)
    /\ IF m.kind = "state"
       THEN /\ heard' = [heard EXCEPT !.told = m.n,
                   !.newest = IF @ = None THEN m.n ELSE Max(@, m.n)]
            /\ key' = IF R2_drop THEN None ELSE key
            /\ call' = Overtaken(TRUE)
       ELSE LET at == IF R8_made THEN m.made ELSE now
                look == at - m.age IN
            /\ heard' = [heard EXCEPT !.look = IF @ = None THEN look ELSE Max(@, look),
                   !.made = at, !.truly = m.made, !.ended = None]
            /\ UNCHANGED <<key, call>>
    /\ UNCHANGED <<now, store, since, rep, link, sent, waits, wrong>>

------------------------------ (* The calls *) -------------------------------

(* A replica decides as the call begins, and the answer may be long on its way.*)
Asks(r) ==
    /\ call = None /\ ~InUse /\ Serves(r)
    /\ call' = [cluster |-> Cluster(rep[r].at), overtaken |-> FALSE, told |-> FALSE,
                news |-> heard.told, refusals |-> heard.refusals]
    /\ UNCHANGED <<now, store, since, rep, link, sent, queue, heard, key, waits, wrong>>

(* Somebody else who wants the same key. Only an invariant uses `late`: all    *)
(* replicas had stopped when it came.                                          *)
Waits ==
    /\ "wait" \in Events /\ call # None /\ ~call.overtaken /\ waits = None
    /\ waits' = [late |-> ~Enabled(store) /\ Confirmed]
    /\ UNCHANGED <<now, store, since, rep, link, sent, queue, heard, key, call, wrong>>

InService == Enabled(heard.told) /\ (D5 => Cluster(heard.told) = call.cluster)

Lands ==
    LET out == call.told /\ ~InService
        void == R2_lent /\ out
        current == IF call.told THEN ~R2_flight ELSE ~call.overtaken \/ ~R2_refused
        kept == ~void /\ Good /\ current /\ (R8_insert => InService)
    IN
    /\ call # None
    /\ key' = IF kept THEN [cluster |-> call.cluster, news |-> call.news, refusals |-> call.refusals]
                       ELSE key
    /\ wrong' =
          (wrong \cup (IF out /\ ~void THEN {"news"} ELSE {})
                 \cup (IF /\ waits # None /\ waits.late /\ ~Good
                          /\ ~void /\ (R8_share => kept)
                       THEN {"late"} ELSE {}))
    /\ call' = None /\ waits' = None
    /\ UNCHANGED <<now, store, since, rep, link, sent, queue, heard>>

(* Another call meets a replica that refuses.                                  *)
Refused(r) ==
    /\ "refusal" \in Events /\ heard.refusals = 0
    /\ ~Enabled(rep[r].at) /\ now < rep[r].look + Staleness
    /\ heard' = [heard EXCEPT !.refusals = 1]
    /\ key' = None
    /\ call' = Overtaken(FALSE)
    /\ UNCHANGED <<now, store, since, rep, link, sent, queue, waits, wrong>>

Init ==
    /\ now = 0 /\ store = 0 /\ since = 0
    /\ rep = [r \in Replicas |-> [at |-> 0, look |-> 0]]
    /\ link = None /\ sent = 0 /\ queue = <<>>
    /\ heard = Unheard /\ key = None /\ call = None /\ waits = None /\ wrong = {}

Next ==
    \/ Decide \/ Tick \/ Tells \/ Beats \/ Ends \/ Reads \/ Waits \/ Lands
    \/ \E r \in Replicas : Poll(r) \/ Begins(r) \/ GoesOn(r) \/ Asks(r) \/ Refused(r)

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Replicas)

------------------------------ (* Invariants *) ------------------------------

(* Revoke may have named all replicas as confirmed. Once the client's own      *)
(* bound has passed, too, it serves nothing from memory.                       *)
ClientsStopByTheBound == ~Enabled(store) /\ now >= since + Staleness => ~InUse

(* It does not wait for that bound once it has been told, whatever a replica   *)
(* that is behind tells or answers later.                                      *)
ToldHasStopped == heard.newest # None /\ ~Enabled(heard.newest) => ~InUse

KeysAreFromAfterTheNews == InUse => key.news = heard.told

AwayHasStopped ==
    InUse => /\ now < heard.truly + Silence
             /\ heard.ended = None \/ now < heard.ended + Grace

RefusedHasStopped == InUse => key.refusals = heard.refusals

OwnClusterAlone == InUse => key.cluster = Cluster(heard.told)

NothingLentPastNews == "news" \notin wrong

EachUseAsks == "late" \notin wrong
=============================================================================
