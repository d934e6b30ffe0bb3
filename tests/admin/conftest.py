from tests.product.conftest import emr as emr
from tests.product.conftest import fumage as fumage
