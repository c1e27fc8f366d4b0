import inspect, pytest
import tests.unit.learner.test_mutations as M
from tests.unit.learner.test_mutations import breakout
from tests.unit.conftest import make_chunk
from tests.conftest import _one_thread
@pytest.mark.parametrize("mutant", M.MUTANTS, ids=[m.bug for m in M.MUTANTS])
def test_identity(mutant, monkeypatch, request):
    fx={n:request.getfixturevalue(n) for n in inspect.signature(mutant.noticed_by).parameters}
    M.inject(monkeypatch, mutant._replace(new=mutant.old))
    mutant.noticed_by(**fx)
@pytest.mark.parametrize("mutant", M.MUTANTS, ids=[m.bug for m in M.MUTANTS])
def test_reason(mutant, monkeypatch, request):
    fx={n:request.getfixturevalue(n) for n in inspect.signature(mutant.noticed_by).parameters}
    M.inject(monkeypatch, mutant)
    with pytest.raises(mutant.error) as e: mutant.noticed_by(**fx)
    last=[t for t in e.traceback if 'tests' in str(t.path)][-1]
    print("REASON", mutant.bug,'|', str(last.path).split('/')[-1], last.name, '|', str(last.statement).replace(chr(10),' ')[:110],'|',' '.join(str(e.value).split())[:110])
