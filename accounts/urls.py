"""Routes of tokens, below `/api/`."""

from django.urls import path

from accounts import views

urlpatterns = [
    path("tokens", views.TokenList.as_view(), name="token-list"),
    path("tokens/<str:token_key>", views.TokenDetail.as_view(), name="token-detail"),
]
