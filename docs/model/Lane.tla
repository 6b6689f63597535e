--------------------------------- MODULE Lane --------------------------------
(* How a Revoke gets to its commit (protocol R9). Two callers flood Revoke,    *)
(* and give calls up. The transactions of one of them may hang for ever,       *)
(* because somebody holds locks on that caller's clusters. Other changes take  *)
(* every thread that they can get. A third caller's Revoke commits all the     *)
(* same, although it has to wait for a thread several times: it looks up its   *)
(* request, reads the cluster, and commits; if the rows are not authentic, it  *)
(* then bans the cluster. README.md says more.                                 *)
EXTENDS Naturals, Sequences, TLC

CONSTANTS
    Hangs, Floods, Other,   \* the three callers
    Threads, Each,          \* threads of the lane, and the most that one caller may hold
    Places,                 \* calls that may be under way at once
    Parts,                  \* the transactions of the third caller's Revoke, one after the other
    \* The safeguards. FALSE takes one away.
    R9_lane,                \* no other work runs in the lane's threads
    R9_turns,               \* the callers take turns
    R9_each,                \* one caller holds at most Each threads
    R9_share,               \* a caller takes a place only while it holds fewer than are free
    R9_kept                 \* a call that was given up keeps its place until its work ends

VARIABLES
    line,       \* each caller's calls that wait for a thread
    turns,      \* the callers that have calls waiting; the first one is next
    runs,       \* each caller's calls that run in a thread
    places,     \* the places that each caller holds
    done,       \* the transactions that the third caller's Revoke has behind it
    busy,       \* threads of the lane that other work holds
    refused     \* the third caller found no place

vars == <<line, turns, runs, places, done, busy, refused>>
Callers == {Hangs, Floods, Other}

RECURSIVE Sum(_, _)
Sum(f, S) == IF S = {} THEN 0 ELSE LET c == CHOOSE x \in S : TRUE IN f[c] + Sum(f, S \ {c})

UnderWay == Sum(line, Callers) + Sum(runs, Callers)
Free == Places - Sum(places, Callers)
FreeThreads == Threads - Sum(runs, Callers) - busy

May(c) == IF R9_share THEN places[c] < Free ELSE Free > 0

(* The third caller sends one Revoke after the other. That no call arrives     *)
(* beyond Places + 1 only bounds the states; without R9_kept all these arrive. *)
Arrives(c) ==
    /\ c = Other => line[c] + runs[c] = 0
    /\ UnderWay <= Places
    /\ IF May(c)
       THEN /\ line' = [line EXCEPT ![c] = @ + 1]
            /\ turns' = IF line[c] = 0 THEN Append(turns, c) ELSE turns
            /\ places' = [places EXCEPT ![c] = @ + 1]
            /\ UNCHANGED refused
       ELSE /\ refused' = (refused \/ c = Other)
            /\ UNCHANGED <<line, turns, places>>
    /\ UNCHANGED <<runs, done, busy>>

(* A caller gives a call up. Its work goes on.                                 *)
GivesUp(c) ==
    /\ ~R9_kept /\ c # Other /\ places[c] > 0
    /\ places' = [places EXCEPT ![c] = @ - 1]
    /\ UNCHANGED <<line, turns, runs, done, busy, refused>>

Can(c) == R9_each => runs[c] < Each

Starts ==
    /\ FreeThreads > 0
    /\ \E i \in DOMAIN turns :
          LET c == turns[i]
              others == SelectSeq(turns, LAMBDA d : d # c)
          IN
          /\ Can(c)
          /\ R9_turns => \A j \in 1..i - 1 : ~Can(turns[j])
          /\ turns' = IF line[c] > 1 THEN Append(others, c) ELSE others
          /\ line' = [line EXCEPT ![c] = @ - 1]
          /\ runs' = [runs EXCEPT ![c] = @ + 1]
    /\ UNCHANGED <<places, done, busy, refused>>

(* The place of a call that was given up is free already without R9_kept. A    *)
(* Revoke keeps its place from one of its transactions to the next.            *)
Ends(c) ==
    /\ runs[c] > 0
    /\ runs' = [runs EXCEPT ![c] = @ - 1]
    /\ IF c = Other /\ done + 1 < Parts
       THEN /\ line' = [line EXCEPT ![c] = @ + 1]
            /\ turns' = Append(turns, c)
            /\ done' = done + 1
            /\ UNCHANGED places
       ELSE /\ places' = [places EXCEPT ![c] = IF @ = line[c] + runs[c] THEN @ - 1 ELSE @]
            /\ done' = IF c = Other THEN 0 ELSE done
            /\ UNCHANGED <<line, turns>>
    /\ UNCHANGED <<busy, refused>>

OtherWork ==
    /\ ~R9_lane /\ FreeThreads > 0
    /\ busy' = busy + 1
    /\ UNCHANGED <<line, turns, runs, places, done, refused>>

Init ==
    /\ line = [c \in Callers |-> 0] /\ runs = line /\ places = line
    /\ turns = <<>> /\ done = 0 /\ busy = 0 /\ refused = FALSE

Next == Starts \/ OtherWork \/ \E c \in Callers : Arrives(c) \/ GivesUp(c) \/ Ends(c)

(* A free thread takes a call. The store answers, but for the one caller.      *)
Spec == Init /\ [][Next]_vars /\ WF_vars(Starts) /\ WF_vars(Ends(Floods)) /\ WF_vars(Ends(Other))

------------------------------ (* Invariants *) ------------------------------

FindsAPlace == ~refused

WorkIsBounded == UnderWay <= Places

------------------------------ (* Properties *) ------------------------------

RevokeCommits == places[Other] > 0 ~> places[Other] = 0
=============================================================================
