/* Gate and lease, for the model checker Spin (https://spinroot.com): every order of the steps below is tried.
 *
 *     spin -a gate.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 *
 * What is modelled is what holdfast_core.gate says of PostgreSQL: a claim holds the door open (a shared lock) before its
 * statement takes the snapshot in which it reads the pause; a pause waits for the claims in flight, or ends them, holds
 * up new ones, writes, commits, and is answered. (On SQLite each of these is a turn of one writer: fewer orders of the
 * same steps.) And the lease: each claim has a token of its own, and a word of its holder counts under that token only.
 *
 * One job, for ever queued anew, since jobs do not know of each other. Leases may run out at any moment, for no clock
 * is trusted. Any claimer may stop for good at any step.
 *
 * Each promise is an assertion, and that nobody waits for ever is what Spin looks at by itself. With -DNO_GATE (no lock),
 * -DLATE_LOCK (a lock that is taken after the snapshot), -DNO_FENCE (tokens are not compared) or -DFREE_SWEEP (the sweep
 * passes by the door) one of them is found broken: tests/faults/test_model.py sees to it.
 */

#define CLAIMERS 2
#define SWEEPER  CLAIMERS
#define TOGGLES  2
#define TOKENS   4

mtype = { queued, running, succeeded };

/* What is committed. */
bool paused = false;
mtype job = queued;
byte token = 0;    /* of the claim in force */
byte tokens = 0;   /* that were ever made */

/* The door. */
byte inside = 0;               /* transactions that hold it open */
bool holds[CLAIMERS + 1];      /* which ones */
bool ended[CLAIMERS + 1];      /* which ones a pause has ended: they commit nothing */
bool waiting = false;          /* a pause wants it closed */
bool closed = false;

/* What clients know. */
bool promised = false;         /* a pause was answered, and no resume has committed since */

inline pass_door(me) {
    atomic { !closed && !waiting -> holds[me] = true; ended[me] = false; inside++ }
}

inline leave_door(me) {
    if
    :: holds[me] -> holds[me] = false; inside--
    :: else
    fi
}

#if defined(NO_GATE)
#define LOOK(me, seen) seen = paused
#elif defined(LATE_LOCK)
#define LOOK(me, seen) seen = paused; pass_door(me)
#else
#define LOOK(me, seen) pass_door(me); seen = paused
#endif

#ifdef NO_FENCE
#define HELD(mine) (job == running)
#else
#define HELD(mine) (job == running && token == mine)
#endif

proctype Claimer(byte me) {
    bool seen;
    byte mine = 0, before = 0;
    do
    :: tokens < TOKENS && mine == 0 ->
        LOOK(me, seen);
        atomic {
            if
            :: !ended[me] && !seen && job == queued ->
                assert(!promised);
                tokens++; token = tokens; mine = tokens; job = running
            :: else
            fi;
            leave_door(me);
            seen = false
        }
    :: tokens < TOKENS && mine != 0 ->
        /* A repeat of the claim, because its answer was lost: a new token, and the one before is void. */
        LOOK(me, seen);
        atomic {
            if
            :: !ended[me] && !seen && job == running && token == mine ->
                assert(!promised);
                tokens++; before = mine; token = tokens; mine = tokens
            :: else
            fi;
            leave_door(me);
            seen = false
        }
    :: mine != 0 ->
        /* The holder ends its claim, though it may be over. Never through the door: a drain has to end. */
        atomic {
            if
            :: HELD(mine) -> assert(token == mine); job = succeeded
            :: else
            fi;
            mine = 0
        }
    :: before != 0 ->
        /* The late word of a call that everybody had given up: the repeat made its token void. */
        atomic { assert(!HELD(before)); before = 0 }
    :: mine != 0 -> mine = 0   /* it forgets its job: the lease runs out */
    :: break
    od
}

/* Puts back what nobody heartbeats. Moves a job unasked, so it passes the door. */
proctype Sweeper() {
    bool seen;
    do
    :: job == running ->
#ifdef FREE_SWEEP
        seen = paused;
#else
        LOOK(SWEEPER, seen);
#endif
        atomic {
            if
            :: !ended[SWEEPER] && !seen && job == running -> assert(!promised); job = queued
            :: else
            fi;
            leave_door(SWEEPER);
            seen = false
        }
    :: atomic { job == succeeded -> job = queued }   /* another job */
    :: break
    od
}

proctype Operator() {
    byte toggle = 0;
    byte each;
    do
    :: toggle < TOGGLES ->
        toggle++;
        waiting = true;
        if
        :: atomic { inside == 0 -> closed = true }
        :: atomic {
            inside > 0 ->   /* it has waited for a second: it ends those that hold the door */
            for (each : 0 .. CLAIMERS) {
                if
                :: holds[each] -> ended[each] = true; holds[each] = false
                :: else
                fi
            };
            inside = 0;
            each = 0;
            closed = true
        }
        fi;
        atomic { paused = true; closed = false; waiting = false };
        promised = true;   /* the answer */
        atomic { paused = false; promised = false }
    :: else -> break
    od
}

init {
    byte each;
    atomic {
        for (each : 0 .. CLAIMERS - 1) {
            run Claimer(each)
        };
        run Sweeper();
        run Operator()
    }
}
